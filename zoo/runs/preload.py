"""What new processes are forked with: all that a run imports."""

from zoo.base.collector import own_process, without_collecting

own_process()
with without_collecting():
    import zoo.runs.session  # noqa: F401

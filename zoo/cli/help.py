"""The texts that ``zoo --help`` and ``zoo COMMAND --help`` print."""

HELP = """\
zoo: which sequence architecture should I use?

  zoo compare [NAME] [OVERRIDE ...]   compare fairly, and write a report
  zoo train [-m] [OVERRIDE ...]       make one run, or with -m a sweep
  zoo report FOLDER                   tables and a page from existing runs
  zoo runs [OVERRIDE ...]             list, open and remove what was made before
  zoo generate RUN [--prompt TEXT]    let a trained model write
  zoo eval RUN --tasks NAME,...       a model on text by the tasks of the
                                      lm-evaluation-harness
  zoo measure [NAME ...]              cost of inference by context length: time,
                                      state, and where one overtakes another
  zoo inspect RUN                     a page with attention maps, the worth of
                                      each head, and a mixer's receptive field
  zoo export RUN [--packed]           a trained model as one file; low-bit
                                      weights in one or two bits each
  zoo import hf SOURCE                a GPT-2, Llama, BERT or ViT from Hugging
                                      Face as a model here
  zoo list [KIND ...]                 what exists
  zoo show [OVERRIDE ...]             what a choice resolves to, and its cost
  zoo new KIND NAME [--package]       the skeleton of a plugin of yours
  zoo check KIND=NAME                 test a component, yours or ours, by the
                                      laws of its kind
  zoo completion bash|zsh|fish        completion for your shell

An override is a choice (mixer=lstm), a value (mixer.heads=4), or a choice for
one place (linear@ffn.linear=dense).

  zoo train arch=transformer task=parity mixer=lstm seed=1
  zoo train -m arch=transformer,lstm seed=0,1,2

Type zoo COMMAND --help for more.
"""

TRAIN_HELP = """\
zoo train [-m] [OVERRIDE ...]: make one run

With -m, make one run for each combination of comma-separated values, or
search among them.

  arch=NAME              a preset: one coherent architecture
  task=NAME              what it is trained on
  mixer=NAME ...         replace one component (zoo list)
  mixer.heads=4          set a parameter of a component
  dim=64 layers=2        the size
  steps=1000             the length of training
  optimizer.lr=3e-3      the learning rate
  seed=0                 data order, initialisation, dropout
  trainer=auto           or cpu, gpu, ddp, fsdp
  logger=wandb           or tensorboard, besides metrics.csv
  runs=runs experiment=train       results go to runs/train/<id>
  start_from=runs/train/<id>       start with the weights of a finished run;
                                   what that cost is counted too
  budget=flops budget.target=1e12  or parameters, active_parameters, state
                                   (solved for dim), tokens, seconds (solved
                                   for steps, as flops is)

A finished run is not repeated. An interrupted run resumes where it stopped.
Hydra's own options work: --cfg job, --info, --multirun, --package, --resolve.

  on=local on.workers=4  make the runs side by side in processes here; or
                         on=slurm, on=ray (docs/elsewhere.md)
  search=optuna search.trials=20 'optimizer.lr=tag(log,interval(1e-4,1e-1))'
                         with -m, look for the best validation score
"""

COMPARE_HELP = """\
zoo compare [NAME] [OVERRIDE ...]: make a whole comparison

NAME is a comparison (zoo list compare), by default `families`, or a file of
yours, ./FILE.yaml.

  compare.archs=[transformer,lstm]
      the contestants; 'compare.archs=["mixer=gru"]' works too
  compare.also=[my_preset]
      additional contestants
  'compare.names={wide:"lstm dim=256"}'
      a name for a contestant, by which lists and reports speak of it
  compare.only=[recall]
      some of its tasks
  compare.seeds=[0,1,2,3,4]
      the seeds that are reported
  compare.tune={optimizer.lr:[1e-3,1e-2]}
      the grid. It is tuned on validation data, with seeds of its own. It may
      have several keys. A key with [] is not tuned.
  compare.extend=2
      how many values the grid may grow by at an edge, for everybody
  compare.workers=2
      the number of processes
  on=slurm
      what makes the runs, if not processes here: slurm or ray
      (docs/elsewhere.md)
  budget=seconds budget.target=60
      the same budget for all: parameters, state, tokens, flops or seconds
  steps=1000 dim=128 ...
      any other override applies to every run

With --dry-run it says what it would run. Finished runs are skipped, and
interrupted ones are resumed. The exit status is 1 if any run failed; the
output names it.
"""

REPORT_HELP = """\
zoo report FOLDER [--to FILE]: print the tables of a folder of runs

It also writes report.html into the folder.

  --to FILE   write the figures also as .csv, .tex or .parquet, as .md with the
              answer in words, or the first chart of the page as .svg

zoo report FOLDER OTHER: compare two folders, paired by seed

zoo report RUN RUN ...: compare single runs (runs/train/<id>). It says what
differs, and writes a page with their learning curves into the first folder.
"""

RUNS_HELP = """\
zoo runs [NAME] [OVERRIDE ...] [--failed]: list what was made before

It lists runs and comparisons, the newest first: id, what, status, score, age
and size. A comparison is one entry. NAME lists the runs of one comparison or
experiment.

  zoo runs                      everything in runs/
  zoo runs families             the runs of a comparison
  zoo runs mixer=mamba dim=64   the runs with these, typed or by a preset
  zoo runs --failed             the runs that failed, in comparisons too
  zoo runs runs=FOLDER          what is in another folder

zoo runs open ID                show the page of its folder
zoo runs rm ID ... [--yes]      remove these, after a question
zoo runs rm --failed            remove all that failed

A few letters of an ID will do, if no other ID has them. The question is left
out with --yes. What a process is running right now is never removed.
"""

MEASURE_HELP = """\
zoo measure [NAME ...] [OVERRIDE ...]: the cost of inference by context length

It times how long it takes to read a context, and to write a token after it.

  NAME                    a preset, or one with overrides:
                          transformer 'transformer mixer.kv_heads=1' mamba2
  dim=256 layers=4 ...    overrides that apply to all
  --lengths 128,512,2048  lengths of the context
  --rounds 7              how often each is timed, in a random order; the
                          tables show medians
  --on cpu                or cuda; by default the device that is there
  --to FILE               where the figures go; by default a file in
                          runs/measure, called by what is measured

On a CPU it measures processor time with one thread, so other work on the
machine matters little.
"""

EXPORT_HELP = """\
zoo export RUN [--packed[=LAYOUT]] [--to FILE]: save the model of a finished run

RUN is runs/train/<id>. The result is one safetensors file.

  --packed        store low-bit weights as codes and scales: 1 bit each for two
                  values, 2 bits for three
  --packed=base3  store three values in 1.6 bits: smaller, and slower to unpack
  --to FILE       instead of model.safetensors, or packed.safetensors, in the
                  folder of the run
  --hf FOLDER     write config.json and model.safetensors as Hugging Face's
                  transformers reads them, if the model is of a published
                  family (zoo list family). RUN may then also be a file made by
                  zoo import or zoo export.

The file is read back and must give the same bits. Its test score is printed
beside that of the run. In Python:

  model = zoo.load("packed.safetensors")
"""

IMPORT_HELP = """\
zoo import hf SOURCE [--to FILE]: convert a model of a published family

The result is one safetensors file of ours. `zoo list family` shows the
families.

  SOURCE      a folder with config.json and safetensors, or a name on the hub,
              which needs pip install -e ".[hub]"
  --to FILE   instead of <name>.safetensors in this folder

The numbers are theirs: the same tokens give the same logits. In Python you can
also convert a model in memory:

  model = zoo.load("gpt2.safetensors")
  model = zoo.from_huggingface(
      transformers.AutoModelForCausalLM.from_pretrained(...))

To go back, with these weights or with trained ones, use
zoo export RUN_OR_FILE --hf FOLDER.
"""

INSPECT_HELP = """\
zoo inspect RUN: look inside the model of a finished run (runs/train/<id>)

It writes inspect.html and inspect.json into the folder of the run.

  --example 0      which test example to show; may be given several times
                   (default 0, 1 and 2)
  --length 64      how many of its tokens
  --judged-by 256  how many examples of validation and test judge the heads

The page shows attention maps by layer and head. For mixers without heads it
shows the effective receptive field. It shows the loss without each head, and
the loss as heads are removed one after another. It also shows how much heads
attend to the previous token, and how much they complete repetitions.
"""

GENERATE_HELP = """\
zoo generate RUN [--prompt TEXT ...]: let the model of a finished run write

RUN is runs/train/<id>.

  --prompt TEXT      continue this text; may be given several times. Without
                     it, the model answers examples of the run's test. For
                     sequence-to-sequence tasks the share that is right is
                     printed too.
  --tokens 64        the most tokens to write
  --beams 4          beam search, instead of the likeliest token each time
  --temperature 0.8  sample from the softmax instead; --seed 1 samples others
  --examples 5       how many test examples to show
"""

EVAL_HELP = """\
zoo eval RUN --tasks NAME[,NAME ...]: judge a model on text by other people's
tasks

The tasks are those of EleutherAI's lm-evaluation-harness, which comes with
pip install -e ".[eval]"; lm-eval ls tasks lists them. RUN is runs/train/<id>,
trained on task=text, or a file made by zoo export.

  --tasks lambada_openai,blimp   tasks or groups of tasks
  --include FOLDER   a folder with tasks of yours, as YAML. They may read local
                     files. Python that they name is run.
  --shots 5          examples in front of each question
  --limit 100        the most examples of each task
  --batch 32         sequences per pass
  --tokens 64        the most tokens to write
  --on cpu           or cuda; by default the device that is there
  --to FILE          instead of evaluation.json in the folder of the run, where
                     the results of earlier calls stay

Beside the metrics of a task there is answer_bits_per_byte: the bits of the
right answer over its bytes. It moves long before accuracy does. Any
architecture is served. What is longer than the model was trained on loses its
start.
"""

CHECK_HELP = """\
zoo check KIND=NAME [OVERRIDE ...]: test a component by the laws of its kind
zoo check ./FILE.py [OVERRIDE ...]: test all that a file or module registers
zoo check arch=NAME [OVERRIDE ...]: train a preset for two steps, and measure
                                   whether it keeps what it claims

  zoo check mixer=lstm
  zoo check mixer=attention mixer.heads=4 mixer.window=8
  zoo check objective=classify task=digits
  zoo check arch=transformer

The laws are about shapes, splitting at random cuts, causality, gradients,
state, padding, saving, bfloat16, compiling, cost and learning. A run of two
steps comes last. If a law is broken, the output names it, says what broke it,
and gives the smallest input that does. The exit status is then 1.

FILE may also be the folder of a package or of a project. A class may say what
it cannot keep, and why:
known_failures = {"mixer_runs_in_bfloat16": "its sums need float32"}.
"""

NEW_HELP = """\
zoo new KIND NAME [--package]: write the skeleton of a plugin of yours

It runs and keeps every law at once.

  zoo new mixer my_mixer          my_mixer.py, in this folder
  zoo new task my_task --package  zoo-my-task/, a package to install, with
                                  pyproject.toml, a README and tests
  zoo new comparison mine         mine.yaml, for zoo compare ./mine.yaml

Kinds: mixer, cross, ffn, linear, norm, position, residual, stem, backbone,
objective, task, family, probe, optimizer, schedule.
"""

LIST_HELP = """\
zoo list [KIND ...]: list every component, preset and comparison

For each it says what it is, its paper, and who provides it.
"""

SHOW_HELP = """\
zoo show [OVERRIDE ...]: show the components that a choice resolves to

It also shows parameters and FLOPs by part, and the bytes of the state.

zoo show KIND=NAME: show in addition what the component is, and each of its
parameters with type, default and meaning
"""

COMPLETION_HELP = """\
zoo completion bash|zsh|fish: print a completion script

In bash, use it with: eval "$(zoo completion bash)"
"""

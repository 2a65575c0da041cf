"""What ``--help`` prints."""

HELP = """\
zoo: which sequence architecture should I use?

  zoo compare [NAME] [OVERRIDE ...]   the families, fairly, with a report
  zoo train [-m] [OVERRIDE ...]       one run, or with -m a sweep
  zoo report FOLDER                   tables and a page from runs that are there
  zoo generate RUN [--prompt TEXT]    what a trained model writes
  zoo measure [NAME ...]              the cost of use against the length of the context: time, state, crossings
  zoo inspect RUN                     a page: attention maps, what each head is worth, how far a mixer reaches
  zoo export RUN [--packed]           a trained model as one file, low-bit weights in a bit or two each
  zoo import hf SOURCE                GPT-2, Llama, BERT or ViT of Hugging Face's as a model here
  zoo list [KIND]                     what exists
  zoo show [OVERRIDE ...]             what a choice resolves to, and what it costs
  zoo new KIND NAME [--package]       a plugin of yours to begin with
  zoo check KIND=NAME                 whether a component, yours or ours, keeps the laws of its kind
  zoo completion bash|zsh|fish        completion for your shell

An override is a choice (mixer=lstm), a value (mixer.heads=4) or a choice for one place (linear@ffn.linear=dense).

  zoo train arch=transformer task=parity mixer=lstm seed=1
  zoo train -m arch=transformer,lstm seed=0,1,2

zoo COMMAND --help says more.
"""

TRAIN_HELP = """\
zoo train [-m] [OVERRIDE ...]: one run, or with -m one for each combination of comma-separated values

  arch=NAME            a preset: one coherent architecture        task=NAME         what it is trained on
  mixer=NAME ...       swap one component (zoo list)               mixer.heads=4     set its parameter
  dim=64 layers=2      the size                                    steps=1000        the length of training
  optimizer.lr=3e-3    the learning rate                           seed=0            data order, initialisation, dropout
  trainer=auto         cpu, gpu, ddp, fsdp                         logger=wandb      or tensorboard, besides metrics.csv
  runs=runs experiment=train    results go to runs/train/<id>
  start_from=runs/train/<id>    begin with the weights of a finished run
  budget=flops budget.target=1e12    or parameters, active_parameters, state (solves dim), tokens, seconds (steps)

A run that is finished is not made again; one that was interrupted goes on where it stopped.
Hydra's own options work: --cfg job, --info, --multirun, --package, --resolve; hydra/launcher=... with -m.
"""

COMPARE_HELP = """\
zoo compare [NAME] [OVERRIDE ...]: a whole comparison (zoo list compare), by default `families`; or ./FILE.yaml of yours

  compare.archs=[transformer,lstm]        who competes; 'compare.archs=["mixer=gru"]' works too
  compare.also=[my_preset]                who competes besides
  compare.only=[recall]                   some of its tasks
  compare.seeds=[0,1,2,3,4]               seeds that are reported
  compare.tune={optimizer.lr:[1e-3,1e-2]} the grid, tuned on validation with seeds of its own; it may have several
                                          keys, and a key with [] is not tuned
  compare.extend=2                        the grid may grow by so many values at an edge, for everybody
  compare.workers=2                       processes
  hydra/launcher=submitit_slurm           who makes the runs, if not processes here (docs/elsewhere.md)
  budget=seconds budget.target=60         the same budget for all: parameters, state, tokens, flops, seconds
  steps=1000 dim=128 ...                  any other override applies to every run

Finished runs are skipped, interrupted ones resumed. It exits with 1 if any run failed, and names it.
"""

REPORT_HELP = """zoo report FOLDER [--to FILE]: print the tables of a folder of runs and write its report.html
zoo report FOLDER OTHER: set two folders side by side, paired by seed

  --to FILE   the figures also as .csv, .md, .tex or .parquet
"""
MEASURE_HELP = """\
zoo measure [NAME ...] [OVERRIDE ...]: what it costs to read a context and to write a token, by the context's length

  NAME                       a preset, or one with overrides: transformer 'transformer mixer.kv_heads=1' mamba2
  dim=256 layers=4 ...       overrides that apply to all
  --lengths 128,512,2048     lengths of the context
  --rounds 7                 how often each is timed, by turns in a drawn order; medians are shown
  --on cpu                   or cuda; by default what is there
  --to FILE                  where the figures go, by default runs/measure/inference.json

On a processor it is the processor's own time with one thread, so other work on the machine matters little.
"""
EXPORT_HELP = """\
zoo export RUN [--packed[=LAYOUT]] [--to FILE]: the model of a finished run (runs/train/<id>) as one safetensors file

  --packed            low-bit weights as codes and scales: 1 bit for two values, 2 bits for three
  --packed=base3      three values in 1.6 bits: smaller, and slower to unpack
  --to FILE           instead of model.safetensors, or packed.safetensors, in the run's folder
  --hf FOLDER         as Hugging Face's transformers reads it, config.json and model.safetensors, where the model is
                      of a published family (zoo list family); RUN may be a file of zoo import or zoo export

The file is read back and must give the same bits; its test score is printed beside the run's. In Python:

  model = zoo.load("packed.safetensors")
"""

IMPORT_HELP = """\
zoo import hf SOURCE [--to FILE]: a model of a published family (zoo list family) as one safetensors file of ours

  SOURCE              a folder with config.json and safetensors, or a name on the hub: pip install -e ".[hub]"
  --to FILE           instead of <name>.safetensors in this folder

The numbers are theirs: the same logits for the same tokens. In Python, also of a model in memory:

  model = zoo.load("gpt2.safetensors")
  model = zoo.from_huggingface(transformers.AutoModelForCausalLM.from_pretrained(...))

Back again, as these or trained on: zoo export RUN_OR_FILE --hf FOLDER
"""

INSPECT_HELP = """\
zoo inspect RUN: look inside the model of a finished run (runs/train/<id>); writes inspect.html and inspect.json there

  --example 0         which examples of the test to show; it may be given several times (0, 1 and 2)
  --length 64         how many of their tokens
  --judged-by 256     by how many examples of validation and test heads are judged

Maps of attention by layer and head; for mixers without heads, the effective receptive field. The loss without each head
alone, and as heads are removed one after another; how much heads look at the token before, and complete repetitions.
"""

GENERATE_HELP = """\
zoo generate RUN [--prompt TEXT ...]: what the model of a finished run (runs/train/<id>) writes

  --prompt TEXT       go on from this; it may be given several times. Without it, examples of the run's test, and of
                      sequence-to-sequence tasks the share that is right
  --tokens 64         at most so many
  --beams 4           beam search instead of the likeliest token each time
  --temperature 0.8   draw from the softmax instead; --seed 1 draws others
  --examples 5        how many examples of the test are shown
"""

CHECK_HELP = """\
zoo check KIND=NAME [OVERRIDE ...]: whether a component keeps the laws of its kind
zoo check ./FILE.py [OVERRIDE ...]: the same of all that a file or a module registers

  zoo check mixer=lstm
  zoo check mixer=attention mixer.heads=4 mixer.window=8
  zoo check objective=classify task=digits

Shapes, splitting at random cuts, causality, gradients, state, padding, saving, bfloat16, compiling, cost, learning; and
a run of two steps. A law that is broken is named, with what broke it and the smallest input that does, and the exit
status is 1. FILE may be the folder of a package or of a project. A class may say what it cannot keep, and why:
known_failures = {"mixer_runs_in_bfloat16": "its sums need float32"}.
"""

NEW_HELP = """\
zoo new KIND NAME [--package]: the skeleton of a plugin of yours, which runs and keeps every law at once

  zoo new mixer my_mixer              my_mixer.py, in this folder
  zoo new task my_task --package      zoo-my-task/, with pyproject.toml, a README and tests, to be installed
  zoo new comparison mine             mine.yaml, for zoo compare ./mine.yaml

Kinds: mixer, ffn, linear, norm, position, objective, task, optimizer, schedule.
"""

LIST_HELP = "zoo list [KIND]: every component, preset and comparison: what it is, its paper, who provides it\n"
SHOW_HELP = (
    "zoo show [OVERRIDE ...]: the components that a choice resolves to, parameters and FLOPs by part, bytes of state\n"
    "zoo show KIND=NAME: besides, what it is, and each of its parameters with type, default and meaning\n"
)
COMPLETION_HELP = 'zoo completion bash|zsh|fish: a script; in bash: eval "$(zoo completion bash)"\n'

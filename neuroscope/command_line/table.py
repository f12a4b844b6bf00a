"""The one table of commands: a row names the functions that a command calls, and their arguments are its options.

To add a command, write its action (`actions/`: what is done with what was typed) and its row. An argument that is added
to a function of a row becomes an option by itself; one that cannot be typed is listed in `hide`, with the reason.
"""

from __future__ import annotations

from neuroscope.command_line.command import RECIPE, Command, Use
from neuroscope.command_line.said import DRAWING, FEWEST, KINDS, METHOD, SAID

NO_TEXT = {"progress": "a function", "arguments": "a dict of TrainingArguments"}
OPENING = Use(
    "neuroscope.models.opening:load",
    "how the model is opened",
    hide={"model": "of the command", "quantization_config": "an object of transformers", "sites": "a dict of modules"},
)
WHERE = (
    OPENING,
    Use(
        "neuroscope.tasks.task:Task.from_jsonl",
        "how prompts are made and shown",
        hide={
            "path": "--tasks",
            "name": "that of the folder",
            "seed": "of the command",
            **dict.fromkeys(("train", "discovery", "test"), "--examples and --n say how many"),
        },
    ),
    Use(
        "neuroscope.tasks.task:Task",
        "how prompts are made and shown",
        only=("chat", "system", "max_tokens", "too_long", "metric", "ranking", "separator", "max_new_tokens"),
    ),
)
ON = Use("neuroscope.reports.main_job:run", only=("model", "tasks"))  # for functions that take these as objects
MINI = {"model": "mini", "tasks": "mini"}
EACH = {"model": "opened by the command", "tasks": "loaded by the command", "task": "one of --tasks"}

COMMANDS: dict[str, Command] = {
    row.name: row
    for row in (
        Command(
            "load", "open a model, and say what was found in it", "inspection:open_model",
            (Use(OPENING.function, hide={k: v for k, v in OPENING.hide.items() if k != "model"}),),
            {
                "neuroscope load": "the bundled model",
                "neuroscope load path/or/hub-id --dtype bfloat16 --device cuda": "a model of your own",
            },
            {"model": "?"}, SAID, defaults=MINI,
        ),
        Command(
            "tasks", "say what tasks there are, and what is in them", "inspection:show_tasks",
            (Use("neuroscope.tasks.loaders:load_tasks", rename={"source": "tasks"}), *WHERE[1:]),
            {
                "neuroscope tasks": "the bundled tasks: kind, family, labels, examples, one of them",
                "neuroscope tasks folder": "your own: a folder of train.jsonl, discovery.jsonl, test.jsonl for each",
                "neuroscope tasks --known": "every name that can be given",
            },
            {"tasks": "?"}, SAID,
        ),
        Command(
            "attribute", "score every neuron for each task, or for one prompt; keep scores and masks",
            "measuring:score",
            (Use("neuroscope.attribution.attributing:attribute", hide=NO_TEXT), *WHERE),
            {
                "neuroscope attribute --tasks nli-food,nli-film --output found": "found/scores/, found/masks/",
                "neuroscope attribute --tasks nli-food --method attribution-patching --option steps=8": "EAP-IG",
                "neuroscope attribute --model gpt2 --text 'The capital of France is' --answer ' Paris'": "one prompt",
            },
            {}, SAID | {"method": METHOD}, defaults=MINI,
        ),
        Command(
            "ablate", "switch masks off, and measure each task with and without, beside random masks",
            "measuring:switch_off",
            (Use("neuroscope.experiments.t1_deactivation:deactivation", hide={**NO_TEXT, **EACH},
                 said_as={"neutral": "lines", "masks": "paths"}),
             ON, *WHERE),
            {
                "neuroscope ablate found/masks --tasks nli-food,nli-film": "every task without the mask of its name",
                "neuroscope ablate found/masks/nli-food.safetensors --tasks mini": "every task without this mask",
            },
            {"masks": "*"}, SAID | {"n_random": f"random masks of each kind, {FEWEST} at least: {KINDS}"},
            defaults=MINI, needs=("masks",),
        ),
        Command(
            "evaluate", "measure a model on tasks, also with a mask off", "measuring:measure",
            (
                ON,
                Use("neuroscope.evaluation.evaluating:evaluate", hide={**NO_TEXT, **EACH}),
                Use("neuroscope.interventions.edits:ablate", "with a mask off",
                    hide={"model": "the same", "examples": "as many as it takes", "seed": "the same"},
                    said_as={"when": "range", "data": "text"}),
                *WHERE,
            ),
            {
                "neuroscope evaluate --tasks nli-food": "score, interval, and the best constant answer",
                "neuroscope evaluate --tasks nli-food --mask found/masks/nli-food.safetensors --value mean":
                "the same with these neurons at their mean",
                "neuroscope evaluate --tasks nli-food --mask 1.229,3.40": "the same without two neurons",
            },
            {}, SAID | {"mask": "a file, or neurons as layer.neuron: 1.229,3.40"}, defaults=MINI,
        ),
        Command(
            "run", "find every task's neurons, switch them off, compare the tasks, write a report", "jobs:whole_run",
            (
                Use("neuroscope.reports.main_job:run", hide=NO_TEXT, said_as={"neutral": "lines"}),
                Use(RECIPE, "training first", hide=NO_TEXT, prefix="tune_"),
                *WHERE,
            ),
            {
                "neuroscope run": "the whole job on the bundled model, into report/",
                "neuroscope run --model path/or/hub-id --tasks sst2,mnli,agnews --dry-run": "what that would take",
                "neuroscope run --config run.toml --output other": "options from a file; those typed go before them",
            },
            {},
            SAID | {
                "output": "folder for the report, masks, scores and tables",
                "method": METHOD,
                "objective": "loss, or log-odds where the model is certain",
                "n": "test examples per task; none: all",
                "examples": "discovery examples per task; none: all",
                "k": "share of all neurons in a task's mask, 1 at most",
                "sizes": "masks' shares beside --k whose faithfulness is shown; none",
                "parts": "of the examples, an even number, to see how masks replicate; none",
                "n_random": f"random masks of each kind, {FEWEST} at least: {KINDS}",
                "tune": "first train the whole model on all tasks together",
                "tune_steps": "of --tune, which it implies; by default those of --tune-epochs",
                "tune_epochs": "of --tune, which it implies",
                "tune_lr": "of --tune, which it implies: peak learning rate; by default 3e-4",
                "tune_batch_size": "of --tune, which it implies: examples a step",
            },
            "A run that was stopped goes on where it was when the same command is given again.",
            plan="planning:plan_of_run",
        ),
        Command(
            "reproduce",
            "run experiments of Leng & Xiong 2025 (such as T2), of Zhao, Ziser & Cohen 2024 (such as Z-F2), CPR, H-F2",
            "jobs:experiments",
            (
                Use("neuroscope.reports.reproduction:reproduce", hide={**NO_TEXT, "recipe": "its values are options"}),
                Use(RECIPE, "of every training", hide=NO_TEXT),
                *WHERE,
            ),
            {
                "neuroscope reproduce --list": "say what each ID is",
                "neuroscope reproduce T1 F5": "two of them, on the bundled model, into reproduction/",
                "neuroscope reproduce all": "all of them, a first look of half an hour, into first-look/",
                "neuroscope reproduce all --full --dry-run": "what all would take at their own settings: hours",
            },
            {"experiment": "*"},
            SAID | {
                "experiment": "{experiments}, or all",
                "output": "folder for reports, one per ID, and tables; IDs share their work in it",
                "tasks": "as in run; by default mini, or mini-sequence where neurons are trained",
                "held_out": "tasks only measured; by default the last, where the ID has some",
                "seeds": "trainings of each kind, each with its random masks, or their seeds: 4,5,6; by default 3; "
                f"{FEWEST} at least for {', '.join(DRAWING)}",
                "n_random": f"random masks of each kind, {FEWEST} at least, for T1, F3, T4, CPR; "
                "by default 5, 20, 20, 5",
                "n": "test examples per task; by default all, and 128 for Z-F",
                "examples": "discovery examples per task; none: all",
                "k": "share of all neurons in a task's mask, 1 at most",
                "steps": "of every training; by default those of --epochs, and 20 for Z-F",
                "lr": "peak learning rate; by default 3e-3, for T5 tuned by method, for Z-F 3e-4",
                "methods": "of continual learning (T5): ncft,seqft; by default all",
                "processes": "that share the work, each with a copy of the model; by default 1, and 2 for all on mini",
            },
            "Of several IDs, each is given those options that it has. `all` is a first look, into first-look/: 64 "
            "examples, 64 to test on, 24 steps, some methods of continual learning, where you give no other. "
            "What was stopped goes on where it was when the same command is given again.",
            plan="planning:plan_of_experiments", needs=("experiment",),
        ),
        Command(
            "explore", "write a page to look through what a run found, neuron by neuron", "pages:explorer",
            (Use("neuroscope.reports.explorer.exploring:explore", only=("run", "title"), rename={"run": "folder"}),),
            {"neuroscope explore report": "report/explorer.html",
             "neuroscope explore old.html": "bring a page up to date"},
            {"folder": "?"}, {"folder": "that run wrote into, or a page to bring up to date"},
            needs=("folder",),
        ),
        Command(
            "report", "say what a folder of run or reproduce holds, what was found, and where its pages are",
            "pages:report", (),
            {"neuroscope report report": "its pages, verdicts, masks and tables",
             "neuroscope report reproduction --open": "the same, and its pages in a browser"},
            {"folder": "?"}, {},
            "Nothing is measured or written; `neuroscope run` with the run's own options writes its report again from "
            "what the folder holds, without measuring anew.",
            needs=("folder",),
        ),
        Command(
            "benchmark",
            "run tasks of lm-evaluation-harness with nothing off, with masks off, and with random ones off",
            "measuring:harness",
            (Use("neuroscope.experiments.benchmarking:benchmark", hide=NO_TEXT,
                 said_as={"when": "range", "data": "text", "masks": "paths"}), OPENING),
            {"neuroscope benchmark found/masks --model path/or/hub-id --tasks arc_easy --limit 200":
             "needs pip install 'neuroscope[lm-eval]'"},
            {"masks": "*"}, {k: v for k, v in SAID.items() if k != "tasks"}, defaults={"model": "mini"},
            needs=("masks",),
        ),
        Command(
            "mask show", "print everything known about masks: their evidence cards", "mask_files:show", (),
            {"neuroscope mask show report/masks/nli-food.safetensors": "size, depth, effect, verdict"},
            {"masks": "*"}, SAID, needs=("masks",),
        ),
        Command(
            "mask diff", "compare two masks: sizes, overlap beside chance, by layer", "mask_files:diff", (),
            {"neuroscope mask diff report/masks/nli-food.safetensors report/masks/nli-film.safetensors":
             "in one table"},
            {"a": "?", "b": "?"}, needs=("a", "b"),
        ),
        Command(
            "mask convert", "write a mask in another format: .safetensors, .json; or read LAPE's .pth",
            "mask_files:convert",
            (Use("neuroscope.interop.lape:load_lape", "LAPE's .neuron.pth", hide={"path": "the first"}),),
            {
                "neuroscope mask convert mask.json mask.safetensors": "of an explorer's page",
                "neuroscope mask convert LLaMA-2-7B.neuron.pth languages --names en,zh,fr,es,vi,id,ja --width 11008":
                "a file for each language, in a folder",
            },
            {"source": "?", "target": "?"}, needs=("source", "target"),
        ),
        Command(
            "doctor", "check the installation, and say what to do about what is wrong", "checkup:doctor", (),
            {"neuroscope doctor": "versions, threads, devices, memory, the bundled model, what is optional"},
        ),
    )
}  # fmt: skip

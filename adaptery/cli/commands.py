"""The table of commands, in the order of an adapter's life.

Command → (module, summary). The summaries stand here so that listing them imports nothing; a test
holds that each equals its command's own.
"""

SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Train": {
        "init": ("init", "Write a commented run.yaml, its values chosen by task, base and memory."),
        "data": ("data", "Check training data, and show it as the model will see it."),
        "train": ("train", "Train an adapter and publish it as the next version."),
        "plan": (
            "plan",
            "Tell a run's rows, steps, parameters and memory before any weight is loaded.",
        ),
        "runs": ("runs", "List, show, follow, plot and diagnose training runs."),
        "methods": ("about", "List the training methods."),
        "targets": (
            "targets",
            "List a base's linear layers, and what auto, all, attention and mlp mean for it.",
        ),
        "params": (
            "targets",
            "Count trainable parameters and bytes on disk for a ladder of ranks.",
        ),
        "experiment": (
            "experiment",
            "Vary one thing of a run and compare: methods, ranks, targets, weights, rates.",
        ),
        "sweep": ("sweep", "Search for the best options with Optuna."),
        "import": ("imports", "Check a PEFT adapter of any tool and keep it as the next version."),
    },
    "Measure": {
        "eval": ("evaluate", "Measure a version on rows, beside the untuned base."),
        "calibrate": (
            "calibrate",
            "Find the thresholds by which a version decides best between its classes.",
        ),
        "compare": (
            "compare",
            "Measure versions on the same rows, and say which differences could be chance.",
        ),
    },
    "Look": {
        "list": ("catalogue", "List the adapters, or one adapter's versions."),
        "show": ("showing", "Show one version: files, base, method, metrics, standing."),
        "history": ("showing", "Show every event of an adapter, oldest first."),
        "diff": ("difference", "Show how two versions differ, down to each module's weight."),
    },
    "Decide": {
        "promote": ("aliases", "Let an alias mean a version; a bare name means `live`."),
        "rollback": ("aliases", "Let an alias mean again what it meant before."),
        "yank": ("standing", "Take a version out of use; it stays readable."),
        "unyank": ("standing", "Take a yank back."),
        "tag": ("standing", "Give a version tags, or take them away."),
        "note": ("standing", "Keep a note about a version."),
    },
    "Serve": {
        "serve": ("serve", "Serve one base and all its adapters over an OpenAI-style API."),
        "chat": ("chat", "Talk to a version on this machine."),
        "merge": ("export", "Fold a version into its base: a plain model, checked."),
        "export": ("export", "Hand a version out in another form."),
    },
    "Carry": {
        "publish": ("remote", "Copy a version to a remote registry such as hf://ORG."),
        "pull": ("remote", "Copy a version from a remote registry."),
        "sync": (
            "carry",
            "Give this registry and a remote one the versions that only the other has.",
        ),
        "bundle": ("carry", "Write a version to one file, to be carried where no network reaches."),
        "unbundle": ("carry", "Publish the version in a file that `adapters bundle` wrote."),
        "sign": (
            "carry",
            "Sign a version's manifest and files; the signature goes into its history.",
        ),
    },
    "Care": {
        "verify": ("care", "Read every byte of versions and check it against its digest."),
        "fsck": ("care", "Check the whole registry: history, what derives from it, every byte."),
        "gc": ("care", "Take away what no version and no live lease refers to."),
        "registry": ("registry", "Make, describe, migrate or copy a whole registry."),
    },
    "This program": {
        "plugins": ("about", "List the plugins and what they register."),
        "completion": ("completion", "Print the script by which a shell completes references."),
    },
}
COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}

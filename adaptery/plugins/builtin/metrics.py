"""The built-in metrics of answers. `loss` and `perplexity` are measured without any plugin."""

from typing import Any

from adaptery import hookimpl
from adaptery.plugins.specs import Spec


@hookimpl
def metrics() -> list[Spec]:
    return [
        Spec("accuracy", "share of answers that equal the true one", accuracy),
        Spec("macro_f1", "F1 averaged over the true answers' classes, 0 to 1", macro_f1),
        Spec("f1", "the same as macro_f1", macro_f1),
        Spec("bleu", "corpus BLEU by sacrebleu, 0 to 100", bleu),
        Spec("chrf", "corpus chrF2 by sacrebleu, 0 to 100", chrf),
        Spec("rouge", "ROUGE-L's F1 by rouge-score, averaged over rows, 0 to 1", rouge),
    ]


def accuracy() -> Any:
    from adaptery.trainers.evaluation.additive import ACCURACY

    return ACCURACY


def macro_f1() -> Any:
    from adaptery.trainers.evaluation.additive import MACRO_F1

    return MACRO_F1


def bleu() -> Any:
    from adaptery.trainers.evaluation.texts import bleu

    return bleu()


def chrf() -> Any:
    from adaptery.trainers.evaluation.texts import chrf

    return chrf()


def rouge() -> Any:
    from adaptery.trainers.evaluation.texts import rouge

    return rouge()

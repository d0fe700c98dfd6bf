"""BLEU, chrF and ROUGE-L, by the libraries that define them, and additive."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from adaptery.trainers.evaluation.additive import Additive, Floats, Texts, mean

# Characters of scripts that write no spaces between words: each is taken for a word.
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])[^\W_])+")


def bleu() -> Additive:
    """sacreBLEU's corpus BLEU, 0 to 100, with its tokenizer 13a; with `zh`, which takes each
    Chinese character for a word, where the references have any."""
    from sacrebleu.metrics.bleu import BLEU

    def of(references: Texts) -> Any:
        unspaced = any(re.search(f"[{UNSPACED}]", text) for text in references)
        return BLEU(tokenize="zh" if unspaced else "13a")

    return corpus_metric(of)


def chrf() -> Additive:
    """sacreBLEU's corpus chrF2, 0 to 100: F-scores of character n-grams up to 6."""
    from sacrebleu.metrics.chrf import CHRF

    return corpus_metric(lambda references: CHRF())


def corpus_metric(of: Callable[[Texts], Any]) -> Additive:
    """A metric of sacreBLEU. The library sums the same statistics over rows."""

    def statistics(predictions: Texts, references: Texts) -> Floats:
        rows = of(references)._extract_corpus_statistics(list(predictions), [list(references)])
        return np.array(rows, dtype=float)

    def value(sums: Floats) -> Floats:
        metric = of(())  # from sums to a score, the tokenizer is of no matter
        scores = [metric._compute_score_from_stats(row.tolist()).score for row in sums]
        return np.array(scores)

    return Additive(statistics, value)


def rouge() -> Additive:
    """ROUGE-L's F1 (0 to 1) of rouge-score, the mean over rows, without stemming.

    Words are runs of letters and digits of any script, and single Chinese or Japanese characters;
    on plain English they are the library's own, which drops all other letters.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=Words())

    def statistics(predictions: Texts, references: Texts) -> Floats:
        pairs = zip(predictions, references, strict=True)
        scores = [scorer.score(reference, said)["rougeL"].fmeasure for said, reference in pairs]
        return np.stack([np.array(scores), np.ones(len(scores))], 1)

    return Additive(statistics, mean)


class Words:
    """Splits texts as `rouge` says; what rouge-score calls a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return WORD.findall(text.lower())

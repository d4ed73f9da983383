"""One fold: which settings, training, prediction of its test spots, baselines, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nh2st._expression import gene_sets
from nh2st._keys import MODEL, UNDEFINED_SCORE
from nh2st._metrics import mean_over_genes, pearson
from nh2st._settings import logger
from nh2st.tl._folds._fold_data import FoldData
from nh2st.tl._folds._settings_to_try import Candidates
from nh2st.tl._folds._split import Fold
from nh2st.tl._folds._store import FoldResult
from nh2st.tl._section_scores import score_section, tidy_scores
from nh2st.tl._training._training_settings import TrainingSettings

_LEAST_SPOTS = 3


@dataclass(frozen=True)
class FoldTask:
    """A fold with its panel, and inner folds of its training spots with theirs, which serve to choose a candidate."""

    fold: Fold
    panel: list[str]
    inner: Sequence[Fold]
    inner_panels: Sequence[list[str]]


class FoldRunner:
    """Runs folds.

    The network is trained with one of the candidates; `baselines` are the settings of each baseline by its name.
    """

    def __init__(self, data: FoldData, candidates: Candidates, baselines: Mapping[str, TrainingSettings]) -> None:
        self._data, self._asked, self._candidates = data, candidates.asked, candidates.named
        self._baselines = baselines

    def run(self, task: FoldTask) -> FoldResult:
        """Predict and score the test spots of a fold."""
        fold, panel = task.fold, task.panel
        choice = self._choose(task)
        models = {MODEL: self._candidates[choice["setting"]], **self._baselines}
        predictions = {name: self._data.predict(settings, fold, panel) for name, settings in models.items()}
        chosen = gene_sets(self._data.members(fold.training).counts, panel)
        return FoldResult(panel, chosen, predictions, self._scores(fold, panel, predictions, chosen), choice)

    def _choose(self, task: FoldTask) -> dict[str, Any]:
        """The candidate with the highest mean correlation over genes, sections and inner folds, and all of these."""
        names = list(self._candidates)
        if len(names) == 1:
            return {"setting": names[0], "candidates": names, "scores": []}
        pairs = list(zip(task.inner, task.inner_panels, strict=True))
        scores = []
        for name, settings in self._candidates.items():
            correlations = [self._correlation(settings, *pair) for pair in pairs]
            scores.append(float(np.mean(correlations)))
            logger.info("Settings %r: mean PCC %.4f over %d inner folds.", name, scores[-1], len(pairs))
        best = names[int(np.argmax(scores))]
        logger.info("Settings %r are chosen, and the network is trained with them on all training spots.", best)
        return {"setting": best, "candidates": names, "scores": scores}

    def _correlation(self, settings: TrainingSettings, fold: Fold, panel: list[str]) -> float:
        predicted = self._data.predict(settings, fold, panel)
        measured = self._data.expression(fold.test, panel, settings.target_definition)[fold.test]
        section = self._data.section[fold.test]
        within = [section == number for number in np.unique(section)]
        means = [mean_over_genes(pearson(measured[rows], predicted[rows])) for rows in within]
        score = mean_over_genes(np.array(means))
        return score if np.isfinite(score) else UNDEFINED_SCORE

    def _scores(
        self, fold: Fold, panel: list[str], predictions: Mapping[str, np.ndarray], chosen: Mapping[str, Sequence[str]]
    ) -> pd.DataFrame:
        """Tidy scores of each section, over those of its spots that are tested."""
        section = self._data.section[fold.test]
        frames = []
        tested = self._data.members(fold.test)
        pairs = zip(tested.sections, tested.counts, strict=True)
        for (member, counts), number in zip(pairs, np.unique(section), strict=True):
            rows = section == number
            if rows.sum() < _LEAST_SPOTS:
                logger.warning("Section %r has %d spots in this fold: too few for scores.", member.name, rows.sum())
                continue
            part = {name: values[rows] for name, values in predictions.items()}
            target = self._asked.target_definition
            here = np.arange(len(member.rows))
            scored = score_section(member, counts, here, part, panel, target, gene_sets=chosen)
            frames.append(tidy_scores(*scored))
        return pd.concat(frames, ignore_index=True)

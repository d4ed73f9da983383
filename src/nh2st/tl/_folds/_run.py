"""One fold: which settings, training, prediction of its test spots, baselines, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nh2st._expression import gene_sets, read_counts
from nh2st._keys import UNDEFINED_SCORE
from nh2st._metrics import mean_over_genes, pearson
from nh2st._settings import logger
from nh2st.tl._baselines import BaselineInputs, baseline_inputs, predict_baselines
from nh2st.tl._evaluate import MODEL
from nh2st.tl._folds._data import Bench
from nh2st.tl._folds._split import Fold
from nh2st.tl._folds._store import FoldResult
from nh2st.tl._section_scores import score_section
from nh2st.tl._training._settings import Recipe

TWICE_THE_SIDE, FINE_TUNED = "2x", "fine-tuned"
EXTRAS = (TWICE_THE_SIDE, FINE_TUNED)
"""Baselines that take longer, by the names under which they are asked for."""
LINEAR_HEAD = "linear head, fine-tuned"
_LEAST_SPOTS = 3
_LABELS = ["section", "gene", "model", "truth"]


@dataclass(frozen=True)
class FoldTask:
    """A fold with its panel, and inner folds of its training spots with theirs, which serve to choose a candidate."""

    fold: Fold
    panel: list[str]
    inner: Sequence[Fold]
    inner_panels: Sequence[list[str]]


class FoldRunner:
    """Runs folds on a bench.

    The network is trained with one of the `candidates`, recipes by their name; the baselines see the patches of
    `recipe`. `extras` are further baselines; where they are None, there are none at all.
    """

    def __init__(
        self, bench: Bench, recipe: Recipe, candidates: Mapping[str, Recipe], extras: Sequence[str] | None
    ) -> None:
        self._bench, self._recipe, self._candidates, self._extras = bench, recipe, candidates, extras
        self._inputs: BaselineInputs | None = None

    def run(self, task: FoldTask) -> FoldResult:
        """Predict and score the test spots of a fold."""
        fold, panel = task.fold, task.panel
        choice = self._choose(task)
        predictions = {MODEL: self._predict(self._candidates[choice["setting"]], fold, panel)}
        if self._extras is not None:
            predictions |= self._predict_baselines(fold, panel, self._extras)
        chosen = gene_sets([read_counts(one, self._bench.layer) for one in self._bench.members(fold.training)], panel)
        return FoldResult(panel, chosen, predictions, self._scores(fold, panel, predictions, chosen), choice)

    def _choose(self, task: FoldTask) -> dict[str, Any]:
        """The candidate with the highest mean correlation over genes, sections and inner folds, and all of these."""
        names = list(self._candidates)
        if len(names) == 1:
            return {"setting": names[0], "candidates": names, "scores": []}
        pairs = list(zip(task.inner, task.inner_panels, strict=True))
        scores = []
        for name, recipe in self._candidates.items():
            correlations = [self._correlation(recipe, *pair) for pair in pairs]
            scores.append(float(np.mean(correlations)))
            logger.info("Settings %r: mean PCC %.4f over %d inner folds.", name, scores[-1], len(pairs))
        best = names[int(np.argmax(scores))]
        logger.info("Settings %r are chosen, and the network is trained with them on all training spots.", best)
        return {"setting": best, "candidates": names, "scores": scores}

    def _correlation(self, recipe: Recipe, fold: Fold, panel: list[str]) -> float:
        predicted = self._predict(recipe, fold, panel)
        measured = self._bench.expression(fold.test, panel, recipe.definition)[fold.test]
        section = self._bench.section[fold.test]
        within = [section == number for number in np.unique(section)]
        means = [mean_over_genes(pearson(measured[rows], predicted[rows])) for rows in within]
        score = mean_over_genes(np.array(means))
        return score if np.isfinite(score) else UNDEFINED_SCORE

    def _predict(self, recipe: Recipe, fold: Fold, panel: list[str]) -> np.ndarray:
        from nh2st.tl._rows import predict_rows

        model, spots = self._bench.train(recipe, fold, panel)
        place = self._bench.place
        return predict_rows(model, spots, fold.test, place.device, place.precision)

    def _predict_baselines(self, fold: Fold, panel: list[str], extras: Sequence[str]) -> dict[str, np.ndarray]:
        bench = self._bench
        if self._inputs is None:
            self._inputs = baseline_inputs(
                bench.sections,
                bench.windows(self._recipe),
                self._recipe.new_model(panel).network.encoder,
                bench.place.device,
                groups=bench.labels,
                twice_the_side=TWICE_THE_SIDE in extras,
            )
        expression = bench.expression(fold.training, panel, self._recipe.definition)
        predictions = predict_baselines(self._inputs, expression, fold.training, fold.test)
        if FINE_TUNED in extras:
            predictions[LINEAR_HEAD] = self._predict(self._recipe.linear_head(), fold, panel)
        return predictions

    def _scores(
        self, fold: Fold, panel: list[str], predictions: Mapping[str, np.ndarray], chosen: Mapping[str, Sequence[str]]
    ) -> pd.DataFrame:
        """Tidy scores of each section, over those of its spots that are tested."""
        section = self._bench.section[fold.test]
        frames = []
        for one, number in zip(self._bench.members(fold.test), np.unique(section), strict=True):
            rows = section == number
            if rows.sum() < _LEAST_SPOTS:
                logger.warning("Section %r has %d spots in this fold: too few for scores.", one.name, rows.sum())
                continue
            part = {name: values[rows] for name, values in predictions.items()}
            target = self._recipe.definition
            here = np.arange(len(one.rows))
            scored = score_section(one, here, part, panel, target, gene_sets=chosen, layer=self._bench.layer)
            frames += [frame.assign(gene=frame.get("gene", "")) for frame in scored]
        return pd.concat([frame.melt(_LABELS, var_name="metric") for frame in frames], ignore_index=True)

"""Cross-validation over donors: every spot is predicted by a network that was trained without its donor."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import pandas as pd

from nh2st._docs import documented
from nh2st._estimators import BASELINE_TITLES, BASELINES, FURTHER_BASELINES
from nh2st._keys import CROSS_VALIDATION
from nh2st._sections import ImageData, ImageKey, Section, Selection, find_sections, fingerprint
from nh2st._settings import logger
from nh2st.tl._folds._fold_data import FoldData, warn_of_flagged_genes
from nh2st.tl._folds._fold_layers import check_layers, record_folds
from nh2st.tl._folds._identity import identity_of
from nh2st.tl._folds._run import FoldRunner, FoldTask
from nh2st.tl._folds._settings_to_try import Candidates, candidates_of
from nh2st.tl._folds._split import Fold, FoldLayout, folds_of, warn_of_blocks
from nh2st.tl._folds._store import FoldFolder, FoldResult
from nh2st.tl._training._starting_model import trained_on
from nh2st.tl._training._training_settings import TrainingOptions, TrainingSettings
from nh2st.tl._training._validation_split import groups_of


@documented
def cross_validate(
    data: ImageData,
    *,
    groups: str | Mapping[str, str] | None = None,
    n_folds: int | None = None,
    genes: int | Sequence[str] | None = None,
    target: Literal["default", "paper"] = "default",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    baselines: bool | str | Collection[str] = True,
    seed: int = 0,
    folder: str | Path | None = None,
    key_added: str = CROSS_VALIDATION,
    overwrite: bool = False,
    sections: Iterable[str] | None = None,
    spots: str | None = None,
    layer: str | None = None,
    table_key: str | None = None,
    image_key: ImageKey = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    **training: Unpack[TrainingOptions],
) -> pd.DataFrame:
    """Train on all donors but some, predict these, and score the predictions; until each donor was predicted.

    The panel, the gene sets, the network and the baselines of a fold know the expression of its training spots alone.
    Images are read, and encoded where the encoder is not trained, once for all folds. The data are touched only at the
    end.

    Parameters
    ----------
    data
        A SpatialData, or a list or dictionary of them, with images, spots and counts.
    groups
        Donors, which folds never divide: a column of ``obs`` (a section may hold several), or a dictionary from section
        to donor. Where absent, ``obs["donor"]``, else every section is a donor of its own.
    n_folds
        Number of folds, into which donors are put so that their spots are balanced. Where absent, each donor is a fold.
        With a single donor, each section is cut into that many compact blocks (five where absent).
    genes
        Panel, as in :func:`nh2st.tl.train`. Where genes are chosen, each fold chooses them on its training spots.
    target
        What to predict, as in :func:`nh2st.tl.train`.
    settings
        Training settings to choose from, a dictionary of them by name: in each fold those with the highest mean PCC per
        gene in an inner cross-validation of its training spots (over donors, or blocks of a single one). The network is
        then trained with them on all training spots of the fold. The baselines keep to `training`.
    baselines
        Whether the baselines are fitted and scored in the same folds. Names add further ones: ``"2x"``, a ridge that
        also sees patches of twice the side; ``"fine-tuned"``, a linear layer on pooled features that is trained with
        their encoder, as long as the published network; or a list of both.
    seed
        The same seed gives the same result on a CPU.
    folder
        Folder in which finished folds are kept. The same call goes on from there after an interruption.
    key_added
        Name of the layer with the predictions.
    overwrite
        Replace layers of this name that were not written by this package.
    %(sections)s
    %(spots)s
    %(layer)s
    %(elements)s
    **training
        Further settings of :func:`nh2st.tl.train`, such as ``max_epochs=20``, ``fine_tune="none"`` or ``device="cpu"``;
        those that start from a trained model, name folders or join several devices are not allowed.

    Returns
    -------
    Tidy table with the columns ``fold`` (from 1), ``section``, ``gene``, ``model`` (``"model"`` for the network, else
    the name of a baseline), ``truth`` (``"raw"``, ``"smoothed"``), ``metric`` and ``value``, with the metrics of
    :func:`nh2st.tl.evaluate`. Metrics of a section as a whole have an empty ``gene``. A section that folds divide is
    scored, and its truth smoothed, within each fold apart.

    Written into each table:

    - ``layers[key_added]``: prediction of each spot by the network of the fold that tests it. Where folds chose
      different genes, those that a fold lacks are NaN for its spots,
    - ``layers[f"{key_added}_ridge"]`` and so on: the same for each baseline,
    - ``obs[f"{key_added}_fold"]``: the fold that tested the spot,
    - ``uns["nh2st"][key_added]``: genes, target and scale, and for each fold its donors, sections, panel, gene sets and
      the settings that were chosen.

    Raises
    ------
    KeyError, TypeError, ValueError
        If the input does not fit together, a training setting is unknown, there are more folds than donors, a section
        lacks genes of the fold that tests it, or `folder` holds another run; all of it is checked before long work
        starts.
    KeyboardInterrupt
        If the user interrupts; the message says what was kept.

    Notes
    -----
    Spots that are closer to a test spot of their section than the side of a patch and the reach of a spot's neighbours
    are left out of training, so that the patches of test spots and of their neighbours share no pixel with those
    trained on. This concerns folds that divide a section. Blocks of a single donor are predicted by a network that has
    seen the same donor, stain and slide: such a score is optimistic, and a warning says so.

    A fold gives the predictions that :func:`nh2st.tl.train` on its training sections and :func:`nh2st.tl.predict` give.
    Early stopping looks at spots of the training sections alone.

    Examples
    --------
    >>> import nh2st as nh
    >>> sdata = nh.datasets.synthetic(n_sections=3)
    >>> scores = nh.tl.cross_validate(sdata, genes=20, patch_px=64, max_epochs=1)  # doctest: +SKIP
    >>> scores.query("metric == 'pearson' and truth == 'raw' and gene != ''").groupby("model")["value"].mean()
    ... # doctest: +SKIP
    """
    candidates = candidates_of(training, settings, target=target, seed=seed)
    extras = _further_baselines(baselines)
    found = find_sections(data, Selection(sections, spots, table_key, image_key, shapes_key, coordinate_system))
    check_layers(found, key_added, baselines=extras is not None, overwrite=overwrite)
    for settings_to_try in candidates.all:
        _check_unseen(found, settings_to_try)
    place = candidates.place
    spots_of_all = FoldData(found, groups_of(found, groups), layer, place.device, place.precision, genes, place)
    warn_of_flagged_genes(found, genes)
    compared = _baseline_settings(candidates.asked, extras)
    tasks = _tasks(spots_of_all, candidates, compared, n_folds)
    for settings_to_try in candidates.all:
        settings_to_try.new_model(tasks[0].panel)
    panels = [task.panel for task in tasks]
    kept = FoldFolder(folder, lambda: identity_of(spots_of_all, candidates, panels, n_folds, extras))
    results = _run_folds(FoldRunner(spots_of_all, candidates, compared), tasks, kept)
    record_folds(spots_of_all, key_added, [task.fold for task in tasks], results, candidates.asked)
    return _joined(results)


def _tasks(
    data: FoldData, candidates: Candidates, baselines: Mapping[str, TrainingSettings], n_folds: int | None
) -> list[FoldTask]:
    """Every fold with its panel and, where there are settings to choose from, its inner folds."""
    layout = data.layout([*candidates.all, *baselines.values()])
    warn_of_blocks(layout)
    folds = folds_of(layout, n_folds)
    inner = [_inner_folds(layout, fold, n_folds) if len(candidates.named) > 1 else [] for fold in folds]
    panels = [data.panel(fold) for fold in folds]
    inner_panels = [[data.panel(fold) for fold in folds_within] for folds_within in inner]
    return [FoldTask(*task) for task in zip(folds, panels, inner, inner_panels, strict=True)]


def _further_baselines(baselines: object) -> list[str] | None:
    """Baselines beside the usual ones; None where there are to be none at all."""
    if isinstance(baselines, bool):
        return [] if baselines else None
    names = [baselines] if isinstance(baselines, str) else baselines
    if not isinstance(names, Collection) or not set(names) <= set(FURTHER_BASELINES):
        msg = f"baselines must be True, False, or some of {', '.join(map(repr, FURTHER_BASELINES))}, not {baselines!r}."
        raise ValueError(msg)
    return [name for name in FURTHER_BASELINES if name in names]


def _baseline_settings(asked: TrainingSettings, extras: Sequence[str] | None) -> dict[str, TrainingSettings]:
    """Settings of each baseline, which sees the same patches as the network that was asked for; none without extras."""
    variants = [] if extras is None else [*BASELINES, *(FURTHER_BASELINES[name] for name in extras)]
    return {variant: asked.baseline(variant) for variant in variants}


def _check_unseen(sections: Sequence[Section], settings: TrainingSettings) -> None:
    """Refuse an encoder that was trained on what is tested."""
    seen = set(trained_on(settings.encoder_weights))
    if known := [section.name for section in sections if fingerprint(section) in seen]:
        msg = (
            f"The encoder of {settings.encoder_weights} was trained on section {', '.join(map(repr, known))}, so that "
            "scores there would be optimistic. Give other `encoder_weights=`, or leave it out with `sections=`."
        )
        raise ValueError(msg)


def _inner_folds(layout: FoldLayout, fold: Fold, n_folds: int | None) -> list[Fold]:
    """Folds of the training spots, as many as there are of all spots where that can be."""
    n_groups = len(set(layout.group[fold.training]))
    most = n_folds if n_folds is None or n_groups == 1 else min(n_folds, n_groups)
    return folds_of(layout, most, within=fold.training)


def _run_folds(runner: FoldRunner, tasks: Sequence[FoldTask], kept: FoldFolder) -> list[FoldResult]:
    results: list[FoldResult] = []
    try:
        for number, task in enumerate(tasks, start=1):
            result = kept.read(number)
            if result is None:
                _log(number, len(tasks), task.fold)
                result = runner.run(task)
                kept.write(number, result)
            results.append(result)
    except KeyboardInterrupt as error:
        finished = f"{len(results)} of {len(tasks)} folds were finished"
        kept_where = "none was kept; with `folder=` they are" if kept.folder is None else f"they are in {kept.folder}"
        msg = f"Cross-validation stopped, and the data are unchanged. {finished}; {kept_where}."
        raise KeyboardInterrupt(msg) from error
    return results


def _log(number: int, n_folds: int, fold: Fold) -> None:
    logger.info(
        "Fold %d of %d: training on %d spots, testing %d (%s).",
        number,
        n_folds,
        fold.training.sum(),
        fold.test.sum(),
        fold.name,
    )


def _joined(results: Sequence[FoldResult]) -> pd.DataFrame:
    frames = [result.scores.assign(fold=number) for number, result in enumerate(results, start=1)]
    joined = pd.concat(frames, ignore_index=True)
    whole = joined[(joined["gene"] == "") & (joined["metric"] == "pearson") & (joined["truth"] == "raw")]
    for model, score in whole.groupby("model", sort=False)["value"].mean().dropna().items():
        logger.info("Mean PCC over genes and sections, %s: %.3f.", BASELINE_TITLES.get(str(model), model), score)
    return joined[["fold", "section", "gene", "model", "truth", "metric", "value"]]

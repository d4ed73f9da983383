"""The panel: the genes that are predicted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from anndata import AnnData

from nh2st._docs import documented
from nh2st._expression import RankingMethod, check_genes, choose_genes, match_panel, read_counts
from nh2st._keys import GENE_FLAG, N_GENES
from nh2st._results import check_gene_flag, editable
from nh2st._sections import Data, Selection, find_spots, tables_of


@documented
def select_genes(
    data: Data,
    n_genes: int = N_GENES,
    *,
    method: RankingMethod = "mean_count",
    genes: Sequence[str] | None = None,
    overwrite: bool = False,
    sections: Iterable[str] | None = None,
    spots: str | None = None,
    layer: str | None = None,
    table_key: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Mark the genes that are to be predicted.

    Only genes that all tables have are chosen. Genes that are the same in all spots come last. To choose them without
    looking at test sections, name the training sections.

    Parameters
    ----------
    %(data)s
    n_genes
        Number of genes.
    method
        ``"mean_count"``: the highest mean count over all spots, as in the paper. ``"highly_variable"``: scanpy's highly
        variable genes (``"seurat"`` flavour, sections as batches). ``"moran"``: the highest Moran's I over the spatial
        graph, mean over sections. The latter two on natural ``log1p`` of counts scaled to 10,000.
    genes
        The genes themselves, in which case `n_genes` and `method` do not matter; named as in ``var_names``, or as in
        another column of ``var``, such as ``gene_ids``.
    overwrite
        Replace a column ``nh2st_gene`` that is not boolean, which this package did not write.
    sections
        Sections on which the genes are chosen; all where absent.
    %(spots)s
    %(layer)s
    %(table_key)s
    %(copy)s

    Returns
    -------
    ``None``, or the copy. Written into each table: ``var["nh2st_gene"]``, boolean.

    Raises
    ------
    KeyError
        If genes were named that a table lacks.
    ValueError
        If more genes are asked for than the tables have in common, gene names repeat, counts are not valid, or
        a column would be replaced that is not ours.

    Examples
    --------
    >>> import nh2st as nh
    >>> sdata = nh.datasets.synthetic()
    >>> nh.pp.select_genes(sdata, 10)
    >>> int(sdata["table"].var["nh2st_gene"].sum())
    10
    """
    data = editable(data, copy)
    chosen = find_spots(data, Selection(sections, spots, table_key))
    everywhere = chosen if sections is None else find_spots(data, Selection(spots=spots, table_key=table_key))
    check_gene_flag(tables_of(everywhere), overwrite=overwrite)
    if genes is None:
        panel = choose_genes([read_counts(section, layer) for section in chosen], n_genes, method)
    else:
        panel = check_genes(tables_of(chosen), genes)
    for table in tables_of(everywhere):
        table.var[GENE_FLAG] = table.var_names.isin(match_panel(table, panel).names)
    return data if copy else None

"""The context network: what its prediction depends on, in which units it is, and what its losses are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import nh2st.nn as nn_
from nh2st.nn._context_member import MemberOutput

N_GENES, COMPONENTS = 12, 6


def _network(*, seed: int = 0, **values: Any) -> nn_.ContextNetwork:
    torch.manual_seed(seed)
    small = {"encoder": "test_resnet", "patch_px": 96, "width": 16, "components": COMPONENTS, "members": 2}
    without_dropout = {"dropout": 0.0, "input_dropout": 0.0}
    config = nn_.NetworkConfig.for_variant("context", n_genes=N_GENES, **small | without_dropout | values)
    network = nn_.create_network(config, encoder_weights=None).eval()
    assert isinstance(network, nn_.ContextNetwork)
    for name, weight in network.named_parameters():
        if "query" in name:  # starts at 0, where neighbours are not told apart
            torch.nn.init.normal_(weight)
    return network


@pytest.fixture
def spots(section: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The section with tokens in place of its patches, and counts."""
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(25, COMPONENTS)).astype(np.float32)
    counts = rng.poisson(3, (25, N_GENES))
    return section | {"images": tokens, "counts": counts, "log_expected": np.full(counts.shape, np.log(3.0))}


def _constant_output(network: nn_.ContextNetwork, values: list[float]) -> None:
    """Let each member give one value for all genes, whatever it sees."""
    for member, value in zip(network.members, values, strict=True):
        torch.nn.init.zeros_(member.head.weight)
        torch.nn.init.constant_(member.head.bias, value)


@pytest.mark.parametrize("neighbors", ["attention", "mean", "none"])
def test_prediction_depends_on_the_images_of_a_spot_and_its_neighbors_alone(spots, neighbors):
    network = _network(neighbors=neighbors)
    before = network.predict(nn_.collate(np.arange(25), **spots))
    spots["images"][7] += 1
    changed = (network.predict(nn_.collate(np.arange(25), **spots)) != before).any(dim=1).numpy()
    sees = np.arange(25) == 7
    if neighbors != "none":
        sees |= (spots["neighbors"] == 7).any(1)
    np.testing.assert_array_equal(changed, sees)


def test_prediction_does_not_look_at_expression_or_counts(spots):
    network = _network(query_weight=1.0, neighbor_weight=1.0, likelihood="poisson")
    expected = network.predict(nn_.collate(np.arange(9), **spots))
    blank = {key: np.full((25, N_GENES), np.nan) for key in ("expression", "counts", "log_expected")}
    torch.testing.assert_close(network.predict(nn_.collate(np.arange(9), **spots | blank)), expected)


def test_prediction_is_the_same_in_any_batch_and_leaves_the_mode(spots):
    network = _network(dropout=0.5, input_dropout=0.5).train()
    whole = network.predict(nn_.collate(np.arange(25), **spots))
    torch.testing.assert_close(network.predict(nn_.collate(np.array([12, 3]), **spots)), whole[[12, 3]])
    assert network.training
    assert not any(module.training for module in network.encoder.model.modules()), "the encoder stays as it is"
    assert not whole.requires_grad


def test_prediction_is_in_the_units_of_the_target(spots):
    network, batch = _network(), nn_.collate(np.arange(4), **spots)
    level, spread = torch.linspace(1, 2, N_GENES), torch.linspace(0.5, 3, N_GENES)
    standardised = network.predict(batch)
    network.set_output(level, spread)
    torch.testing.assert_close(network.predict(batch), level + spread * standardised)


def test_std_joins_the_spread_of_the_members_and_the_residual(spots):
    network, batch = _network(members=3), nn_.collate(np.arange(4), **spots)
    spread, residual = np.linspace(0.5, 3, N_GENES), np.linspace(0, 2, N_GENES)
    network.set_output(torch.zeros(N_GENES), torch.tensor(spread))
    with torch.no_grad():
        members = np.stack([member.signal.numpy() * spread for member in network(batch)])
    assert members.std(axis=0).min() > 0, "members start differently"
    network.set_residual(torch.zeros(N_GENES))
    np.testing.assert_allclose(network.predict_with_std(batch).std, members.std(axis=0), rtol=1e-4)
    network.set_residual(torch.tensor(residual))
    mean, std = network.predict_with_std(batch)
    np.testing.assert_allclose(mean, members.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(std, np.hypot(members.std(axis=0), residual), rtol=1e-4)
    assert (std >= torch.tensor(residual)).all()


@pytest.mark.parametrize(("log", "logarithm"), [("natural", np.log), ("log10", np.log10)])
@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial"])
def test_count_likelihoods_give_the_logarithm_of_shares(spots, likelihood, log, logarithm):
    network = _network(likelihood=likelihood)
    share = np.linspace(1e-5, 0.2, N_GENES)
    _constant_output(network, [np.log(2.0)] * 2)
    network.set_output(torch.tensor(share).log(), torch.ones(N_GENES))
    network.set_count_scale(1e4, log)
    predicted = network.predict(nn_.collate(np.arange(3), **spots))
    np.testing.assert_allclose(predicted, np.tile(logarithm(1 + 1e4 * share * 2), (3, 1)), rtol=1e-5)


def test_fit_is_the_mean_over_members_of_the_error_of_standardised_expression(spots):
    targets = np.array([9, 4, 2])
    network, batch = _network(mse_weight=3.0), nn_.collate(targets, **spots)
    network.set_output(torch.full((N_GENES,), 9.0), torch.full((N_GENES,), 9.0))
    output = network(batch)
    losses = network.losses(output, batch)
    errors = [((member.signal.detach().numpy() - spots["expression"][targets]) ** 2).mean() for member in output]
    np.testing.assert_allclose(losses["mse"].detach(), np.mean(errors), rtol=1e-5)
    torch.testing.assert_close(losses["loss"], 3 * losses["mse"])


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial"])
def test_fit_is_the_count_loss_of_the_targets(spots, likelihood):
    network, batch = _network(likelihood=likelihood, members=1), nn_.collate(np.array([4, 2]), **spots)
    if network.log_dispersion is not None:
        torch.nn.init.normal_(network.log_dispersion)
    (output,) = network(batch)
    counts, log_expected = (torch.tensor(spots[key][[4, 2]]).float() for key in ("counts", "log_expected"))
    expected = nn_.count_loss(output.signal, counts, log_expected, network.log_dispersion)
    losses = network.losses([output], batch)
    torch.testing.assert_close(losses["mse"], expected)
    losses["loss"].backward()
    assert (network.log_dispersion is None) == (likelihood == "poisson")
    assert network.log_dispersion is None or network.log_dispersion.grad is not None


@pytest.mark.parametrize("absent", ["counts", "log_expected"])
def test_count_likelihood_without_counts_is_refused(spots, absent):
    network, batch = _network(likelihood="negative_binomial"), nn_.collate(np.arange(3), **spots)
    with pytest.raises(ValueError, match="'negative_binomial' needs the batch's counts and log_expected"):
        network.losses(network(batch), replace(batch, **{absent: None}))


def _expected_contrast(output: list[MemberOutput], image: str, gene: str, related: np.ndarray) -> float:
    """Mean over members of the cross-entropy of each spot against all that are not related to it, both ways."""
    losses = []
    for member in output:
        rows = [getattr(member, name).detach().numpy().astype(float) for name in (image, gene)]
        images, genes = (values / np.linalg.norm(values, axis=1, keepdims=True) for values in rows)
        for logits in (images @ genes.T / 0.05, genes @ images.T / 0.05):
            for i in range(len(logits)):
                kept = [j for j in range(len(logits)) if j == i or not related[i, j]]
                losses.append(np.log(np.exp(logits[i, kept]).sum()) - logits[i, i])
    return float(np.mean(losses))


@pytest.mark.parametrize("overlap", [False, True])
def test_contrastive_terms_leave_out_spots_that_show_the_same_tissue(spots, overlap):
    network = _network(query_weight=2.0, neighbor_weight=0.5).train()
    targets = np.array([0, 1, 4, 12, 13, 24, 22])  # of a 5 x 5 grid with eight neighbours
    spots["neighbors"][13] = -1  # as that of nearest neighbours, the relation need not hold both ways
    batch = nn_.collate(targets, **spots)
    around = [{int(spot), *map(int, spots["neighbors"][spot])} - {-1} for spot in targets]
    listed = np.array([[other in here for other in targets] for here in around])
    adjacent = listed | listed.T
    sharing = np.array([[bool(here & there) for there in around] for here in around])
    assert listed.sum() < adjacent.sum() < sharing.sum() < sharing.size
    if overlap:
        known = np.zeros_like(adjacent)
        known[0, 5] = known[5, 0] = True
        batch.related = torch.tensor(known)
        adjacent, sharing = adjacent | known, sharing | known
    output = network(batch)
    losses = network.losses(output, batch)
    query = _expected_contrast(output, "image", "gene", adjacent)
    neighbor = _expected_contrast(output, "neighbor_image", "neighbor_gene", sharing)
    np.testing.assert_allclose(losses["query"].detach(), query, rtol=1e-4)
    np.testing.assert_allclose(losses["neighbor"].detach(), neighbor, rtol=1e-4)
    torch.testing.assert_close(losses["loss"], 2 * losses["query"] + 0.5 * losses["neighbor"] + losses["mse"])


@torch.no_grad()
def test_embeddings_are_those_of_the_spot_and_of_its_neighborhood(spots):
    network, batch = _network(query_weight=1.0).train(), nn_.collate(np.array([12, 0, 7]), **spots)
    for member, found in zip(network.members, network(batch), strict=True):
        genes = member.genes(batch.expression)[batch.nodes]
        around = [embedded[1:][present[1:]] for embedded, present in zip(genes, batch.mask, strict=True)]
        means = [neighbors.mean(0) for neighbors in around]
        torch.testing.assert_close(member.head(found.image), found.signal)
        torch.testing.assert_close(found.gene, genes[:, 0])
        torch.testing.assert_close(found.neighbor_image, member.neighbors(batch.images[batch.nodes], batch.mask))
        torch.testing.assert_close(found.neighbor_gene, torch.stack(means))


@torch.no_grad()
def test_absent_nodes_may_point_anywhere(spots):
    network, batch = _network(query_weight=1.0, neighbor_weight=1.0), nn_.collate(np.array([0, 4, 12, 24]), **spots)
    moved = replace(batch, nodes=batch.nodes.masked_scatter(~batch.mask, torch.randint(len(batch.images), (36,))))
    assert (moved.nodes != batch.nodes).any()
    torch.testing.assert_close(network.predict(moved), network.predict(batch))
    network.train()
    torch.testing.assert_close(network.losses(network(moved), moved), network.losses(network(batch), batch))


@pytest.mark.parametrize("weights", [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
def test_gene_branch_is_there_and_learns_only_with_a_contrastive_weight(spots, weights):
    network = _network(query_weight=weights[0], neighbor_weight=weights[1]).train()
    batch = nn_.collate(np.arange(25)[::3], **spots)
    losses = network.losses(network(batch), batch)
    assert [losses[name].item() != 0 for name in ("query", "neighbor")] == [weight != 0 for weight in weights]
    losses["loss"].backward()
    learned = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {name for name, p in network.named_parameters() if p.requires_grad} == learned
    assert any(".genes." in name for name in learned) == any(weights)


def test_a_single_target_has_nothing_to_be_contrasted_with(spots):
    network = _network(query_weight=1.0, neighbor_weight=1.0)
    losses = nn_.training_step(
        network, nn_.collate(np.array([12]), **spots), torch.optim.Adam(network.members.parameters())
    )
    assert losses["query"] == losses["neighbor"] == 0
    assert losses["loss"] == losses["mse"] > 0


@pytest.mark.parametrize("likelihood", ["mse", "poisson", "negative_binomial"])
def test_mixed_precision_is_finite_and_close(spots, likelihood):
    network = _network(likelihood=likelihood, query_weight=1.0, neighbor_weight=1.0, temperature=0.5).train()
    batch = nn_.collate(np.arange(25)[::3], **spots)
    full = network.losses(network(batch), batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network.losses(network(batch), batch)
    mixed["loss"].backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    for name, loss in full.items():
        assert mixed[name].dtype == torch.float32
        torch.testing.assert_close(mixed[name], loss, rtol=0.1, atol=0.05)


def test_input_of_the_wrong_size_is_named(spots):
    network, batch = _network(), nn_.collate(np.arange(2), **spots)
    with pytest.raises(ValueError, match=r"tokens of 6 components .* not images of shape \(5,\)"):
        network.predict(replace(batch, images=batch.images[:, :5]))
    with pytest.raises(ValueError, match="tokens of 6 components"):
        network.predict(replace(batch, images=torch.zeros(len(batch.images), 96, 96, 3, dtype=torch.uint8)))
    with pytest.raises(ValueError, match="12 genes, not for 5"):
        network.predict(replace(batch, expression=batch.expression[:, :5]))


@pytest.mark.parametrize("likelihood", ["mse", "negative_binomial"])
def test_everything_that_a_prediction_needs_is_in_the_state(spots, likelihood):
    network = _network(likelihood=likelihood, query_weight=1.0)
    network.reduction.fit([[np.random.default_rng(0).normal(size=(20, network.n_features)).astype(np.float32)]])
    network.set_output(torch.rand(N_GENES), torch.rand(N_GENES))
    network.set_residual(torch.rand(N_GENES))
    network.set_count_scale(1e6, "log10")
    again = nn_.create_network(nn_.NetworkConfig.from_dict(network.config.to_dict()), encoder_weights=None)
    again.load_state_dict(network.state_dict())
    batch = nn_.collate(np.arange(3), **spots)
    for loaded, other in zip(again.predict_with_std(batch), network.predict_with_std(batch), strict=True):
        torch.testing.assert_close(loaded, other, rtol=0, atol=0)
    assert again.n_features == 2 * again.encoder.n_features
    torch.testing.assert_close(again.reduction.components, network.reduction.components)


def test_batch_carries_counts_along(spots):
    batch = nn_.collate(np.array([24, 0]), **spots).to("cpu")
    targets = batch.nodes[:, 0]
    np.testing.assert_array_equal(batch.counts[targets], spots["counts"][[24, 0]])
    np.testing.assert_array_equal(batch.log_expected[targets], spots["log_expected"][[24, 0]].astype(np.float32))
    assert batch.related is None

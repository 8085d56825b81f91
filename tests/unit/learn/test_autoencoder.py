"""The VAE: faithful first, then crisp with an encoder that stands still; exact when resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from face0_worker.contract.errors import BadInput
from face0_worker.learn.autoencoder import (
    STATE,
    VaePlan,
    VaeTrainer,
    measure_scaling,
    psnr,
    random_crops,
    reconstruct,
    reconstruction_loss,
    take_vae,
    to_unit,
    train_vae,
)
from face0_worker.learn.face_weight import place_weight
from face0_worker.learn.model_folder import TOY
from tests.unit.learn.toy_data import quiet

CPU = torch.device("cpu")
SMALLEST = replace(TOY, size=32)
# faces fill the left half of half of the pictures, and the others show none
BOXES = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0]]).repeat(8, 1)
PLAN = VaePlan(steps=6, batch=2, crop=32, faithful=0.5, checkpoint_s=25)


class Killed(BaseException):
    """What no training survives."""


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    """Flat squares of many colours."""
    flat = np.random.default_rng(0).integers(0, 255, (16, 1, 1, 3), dtype=np.uint8)
    return torch.from_numpy(np.tile(flat, (1, 32, 32, 1)))


def _trainer(pixels: Tensor, folder: Path, plan: VaePlan = PLAN, kill_at: int = -1) -> VaeTrainer:
    """Return a training whose every step takes ten seconds and whose step `kill_at` does not end."""
    now = [0.0]
    trainer = VaeTrainer(pixels, BOXES, SMALLEST, plan, folder, quiet, lambda: now[0])
    real = trainer.advance

    def advance() -> Tensor:
        if trainer.step == kill_at:
            raise Killed
        now[0] += 10
        return real()

    trainer.advance = advance  # type: ignore[method-assign]
    return trainer


def _encoder(trainer: VaeTrainer) -> list[Tensor]:
    parts = [trainer.vae.encoder, trainer.vae.quant_conv, trainer.ema.encoder, trainer.ema.quant_conv]
    return [value.detach().clone() for part in parts for value in part.parameters()]


def _equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


def test_the_encoder_stands_still_once_the_decoder_learns_to_be_crisp(pixels: Tensor, tmp_path: Path) -> None:
    trainer = _trainer(pixels, tmp_path)
    start = _encoder(trainer)
    trainer.advance()
    assert not _equal(start, _encoder(trainer))
    trainer._stand_still()
    still, decoder = _encoder(trainer), [p.detach().clone() for p in trainer.vae.decoder.parameters()]
    critic = [p.detach().clone() for p in trainer.contest.critic.parameters()]
    scaling = trainer.ema.config.scaling_factor
    for _ in range(2):
        trainer.advance()
    assert _equal(still, _encoder(trainer))
    assert not _equal(decoder, list(trainer.vae.decoder.parameters()))
    assert not _equal(critic, list(trainer.contest.critic.parameters()))
    assert trainer.ema.config.scaling_factor == scaling


def test_latents_have_unit_variance_once_they_are_scaled(pixels: Tensor, tmp_path: Path) -> None:
    vae = _trainer(pixels, tmp_path).run()
    with torch.no_grad():
        latents = vae.encode(to_unit(pixels)).latent_dist.mode() * vae.config.scaling_factor
    assert float(latents.std()) == pytest.approx(1, rel=0.01)
    assert measure_scaling(vae, pixels) == pytest.approx(vae.config.scaling_factor)


def test_a_killed_vae_training_loses_at_most_one_interval_and_ends_as_an_unbroken_one(
    pixels: Tensor, tmp_path: Path
) -> None:
    whole = _trainer(pixels, tmp_path / "whole").run()
    with pytest.raises(Killed):  # in the crisp part, so that critic and scaling have to come back too
        _trainer(pixels, tmp_path / "broken", kill_at=5).run()
    torch.manual_seed(9)
    resumed = _trainer(pixels, tmp_path / "broken")
    assert resumed.step == 4
    assert resumed.crisp
    ended = resumed.run()
    assert _equal(list(ended.parameters()), list(whole.parameters()))
    assert ended.config.scaling_factor == whole.config.scaling_factor


def test_a_step_that_is_not_finite_leaves_decoder_and_critic_alone_and_is_counted(
    pixels: Tensor, tmp_path: Path
) -> None:
    trainer = _trainer(pixels, tmp_path)
    trainer._stand_still()
    parts = [*trainer.vae.parameters(), *trainer.contest.critic.parameters()]
    before = [p.detach().clone() for p in parts]
    decode = trainer.decode
    trainer.decode = lambda latents: decode(latents) * torch.nan
    trainer.advance()
    assert _equal(before, parts)
    assert int(trainer.skipped) == 1
    trainer.decode = decode
    trainer.advance()
    assert not _equal(before, parts)
    assert all(torch.isfinite(p).all() for p in parts)


def test_the_vae_learns_is_written_whole_and_never_trained_twice(pixels: Tensor, tmp_path: Path) -> None:
    out = tmp_path / "vae"
    plan = replace(PLAN, steps=40, faithful=0.9, batch=4, rate=3e-3)
    untrained = VaeTrainer(pixels, BOXES, SMALLEST, plan, tmp_path / "none", quiet).ema
    vae = train_vae(pixels.numpy(), BOXES.numpy(), out, SMALLEST, plan, CPU, quiet)
    assert psnr(reconstruct(vae, pixels), pixels) > psnr(reconstruct(untrained, pixels), pixels) + 0.5
    assert not (tmp_path / STATE).exists()
    told: list[str] = []
    again = train_vae(pixels.numpy(), BOXES.numpy(), out, SMALLEST, plan, CPU, told.append)
    assert not told
    assert _equal(list(vae.parameters()), list(again.parameters()))


def test_the_spread_of_latents_is_drawn_to_one_by_the_kl_term(
    pixels: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("face0_worker.learn.autoencoder.KL_WEIGHT", 100.0)
    trainer = _trainer(pixels, tmp_path, replace(PLAN, steps=20, rate=1e-2, faithful=1.0))

    def kl() -> float:
        with torch.no_grad():
            found = trainer.vae.encode(to_unit(pixels)).latent_dist
        return float(0.5 * (found.mean.square() + found.var - 1 - found.logvar).mean())

    before = kl()
    for _ in range(20):
        for group in trainer.optimiser.param_groups:
            group["lr"] = 1e-2
        trainer.advance()
    assert kl() < 0.7 * before


def test_a_vae_training_of_another_shape_is_refused(pixels: Tensor, tmp_path: Path) -> None:
    _trainer(pixels, tmp_path).checkpoint()
    with pytest.raises(BadInput, match="another shape"):
        VaeTrainer(pixels, BOXES, replace(SMALLEST, latents=4), PLAN, tmp_path, quiet)


def test_a_vae_that_goes_on_starts_at_the_weights_of_the_one_before(pixels: Tensor, tmp_path: Path) -> None:
    first, none = tmp_path / "first", replace(PLAN, steps=0)
    torch.manual_seed(5)
    before = train_vae(pixels.numpy(), BOXES.numpy(), first, SMALLEST, PLAN, CPU, quiet)
    arguments = (pixels.numpy(), BOXES.numpy(), tmp_path / "further" / "vae", SMALLEST, replace(PLAN, seed=7))
    trainer = VaeTrainer(pixels, BOXES, SMALLEST, none, tmp_path / "none", quiet, start=first)
    assert _equal(list(trainer.ema.parameters()), list(before.parameters()))
    further = train_vae(*arguments, CPU, quiet, first)
    assert not _equal(list(further.parameters()), list(before.parameters()))
    with pytest.raises(BadInput, match="not a VAE of this shape"):
        VaeTrainer(pixels, BOXES, replace(SMALLEST, latents=4), none, tmp_path / "other", quiet, start=first)


def test_a_vae_that_was_half_copied_is_taken_again(tmp_path: Path) -> None:
    (tmp_path / "start" / "vae").mkdir(parents=True)
    (tmp_path / "start" / "vae" / "config.json").write_text("{}")
    (tmp_path / "vae").mkdir()
    take_vae(tmp_path / "start", tmp_path / "vae")
    assert (tmp_path / "vae" / "config.json").read_text() == "{}"
    (tmp_path / "start" / "vae" / "config.json").write_text("[]")
    take_vae(tmp_path / "start", tmp_path / "vae")
    assert (tmp_path / "vae" / "config.json").read_text() == "{}"


def test_crops_are_cut_from_the_pictures_and_mirrored_half_of_the_time() -> None:
    picture = torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8, 1).expand(1, 8, 8, 3)
    pieces, weight = random_crops(picture, BOXES[:1], 200, 4, 3.0, torch.Generator().manual_seed(0))
    crops = pieces[..., 0].int()
    steps = crops[:, 0, 1] - crops[:, 0, 0]
    assert set(steps.tolist()) == {1, -1}
    assert 60 < int((steps == 1).sum()) < 140
    assert bool((crops.diff(dim=1) == 8).all())
    assert len({int(crop.min()) for crop in crops}) > 15
    # what a place counts follows it: here the face's middle is the line between the columns 1 and 2
    assert weight.shape == (200, 1, 4, 4)
    middle, edge = (weight[:, 0][crops % 8 == column] for column in (1, 7))
    assert float(middle.min()) > 1.5
    assert float(edge.max()) < 1.1


def test_an_error_in_a_face_counts_more_than_one_beside_it() -> None:
    want = torch.zeros(1, 3, 16, 16)
    weight = place_weight(BOXES[:1], *(((torch.arange(16) + 0.5) / 16)[None],) * 2, 4.0)
    inside, outside = want.clone(), want.clone()
    inside[..., 6:10, 3:5], outside[..., 6:10, 11:13] = 1, 1
    wrong = [float(reconstruction_loss(one, want, weight)) for one in (inside, outside)]
    assert wrong[0] > 2 * wrong[1]
    plain = [float(reconstruction_loss(one, want, torch.ones_like(weight))) for one in (inside, outside)]
    assert plain[0] == pytest.approx(plain[1])


def test_the_loss_of_a_perfect_copy_is_zero_and_of_a_blurred_edge_is_not() -> None:
    edge = torch.ones(1, 3, 8, 8)
    edge[..., 4:] = -1
    alike = torch.ones(1, 1, 8, 8)
    assert float(reconstruction_loss(edge, edge, alike)) == 0
    assert float(reconstruction_loss(torch.zeros_like(edge), edge, alike)) > 1

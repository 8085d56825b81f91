"""A loaded model on its device: encode prompts and faces, predict, decode. Knows nothing of batches or jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from face0_worker.contract.errors import BadInput, ItemFailed, ModelMissing, OutOfMemory
from face0_worker.contract.job import RenderItem
from face0_worker.render.conditioning import NO_FACE, Conditioning, Context
from face0_worker.render.cores import side_by_side
from face0_worker.render.denoiser import Denoiser
from face0_worker.render.face_adapter import FaceProjection
from face0_worker.render.guidance import Branch, Rows
from face0_worker.render.limits import BatchLimits
from face0_worker.render.loading import Card, Parts, read_parts
from face0_worker.render.sampler import make_scheduler
from face0_worker.render.tensors import to_host
from face0_worker.render.text import EncodedTexts, TextEncoder, at_once, encode_texts

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# bfloat16 has 8 bits: smooth backgrounds would show bands. On a CPU, decoding in float32 costs about 5% of a
# picture of 20 steps, and makes it the same in every batch.
DECODE_PRECISIONS = {**PRECISIONS, "bfloat16": torch.float32}
# decoded at once, by all cores of a CPU together: two megapixels hold about 4 GB in Stable Diffusion's VAE in float16
DECODED_PX = 2 * 2**20


def pick_device(wanted: str) -> torch.device:
    """Return the device that `wanted` names: auto, cpu, cuda or cuda:N. Never another one than was asked for.

    Raises: ModelMissing: CUDA, or that GPU, is not there. BadInput: no such kind of device.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = wanted.partition(":")
    if kind not in ("cpu", "cuda") or (number and (kind == "cpu" or not number.isdecimal())):
        raise BadInput(f"device {wanted!r} is unknown; use auto, cpu, cuda or cuda:N")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= count:
            raise ModelMissing(
                f"device {wanted} was asked for, but this machine offers {count} CUDA devices; "
                "install a CUDA build of torch and a driver, or set FACE0_DEVICE=cpu"
            )
    return torch.device(wanted)


def pick_precision(wanted: str, device: torch.device) -> str:
    """Return the precision that `wanted` names; auto is the fastest that the device computes in hardware.

    Raises: BadInput: an unknown precision, or float16 on a CPU.
    """
    if wanted == "auto":
        if device.type == "cuda":
            return "float16"
        return "bfloat16" if cpu_flags() & {"avx512_bf16", "amx_bf16"} else "float32"
    if wanted not in PRECISIONS:
        raise BadInput(f"precision {wanted!r} is unknown; use auto, {', '.join(PRECISIONS)}")
    if wanted == "float16" and device.type == "cpu":
        raise BadInput("precision float16 needs CUDA; use bfloat16 or float32 on a CPU")
    return wanted


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the CPU's feature flags as Linux names them; empty where it does not say."""
    try:
        lines = path.read_text("ascii", "replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(flags.split())


@contextmanager
def device_errors(doing: str) -> Iterator[None]:
    """Translate torch's errors: OutOfMemory when a smaller batch may fit, else ItemFailed.

    A broken CUDA context passes through: nothing runs on it again, so the process has to end.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"the device has no memory left for {doing}") from error
    except MemoryError as error:
        raise OutOfMemory(f"the machine has no memory left for {doing}") from error
    except RuntimeError as error:
        text = str(error)
        if "CUDA error" in text and "out of memory" not in text:
            raise
        # how torch's CPU allocator says it
        if "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text:
            raise OutOfMemory(f"the device has no memory left for {doing}") from error
        raise ItemFailed(f"{doing} failed on the device ({type(error).__name__})") from error


class Pipeline:
    """One model on one device. It keeps no state of a request; one thread at a time uses it.

    The UNet runs in `precision` and the VAE in DECODE_PRECISIONS of it. The text encoder and the mapper run in
    float32: they run once per prompt and face, so precision there costs nothing. What it learns about its device,
    how much fits at once, is in `limits`.
    """

    def __init__(self, parts: Parts, *, digest: str, device: torch.device, precision: str) -> None:
        self.card: Card = parts.card
        self.digest, self.device, self.precision = digest, device, precision
        self.place: Path | None = None
        self.limits = BatchLimits()
        self.scheduler_config: Mapping[str, Any] = parts.scheduler_config
        self.encoders = [TextEncoder(parts.tokenizer, parts.text_encoder.to(device))]
        # told the pooled prompt and the picture's size beside the tokens: SDXL
        self.has_second_encoder = parts.text_encoder_2 is not None
        if self.has_second_encoder:
            self.encoders.append(TextEncoder(parts.tokenizer_2, parts.text_encoder_2.to(device)))
        self._zeros_say_nothing = parts.force_zeros_for_empty_prompt
        self.mapper = parts.mapper.to(device)
        # channels_last: 1.3 to 2 times faster bfloat16 convolutions on a CPU, and what tensor cores want
        self.unet = parts.unet.to(device=device, memory_format=torch.channels_last)
        self.decode_precision = DECODE_PRECISIONS[precision]
        if self.has_second_encoder and parts.vae.config.force_upcast and precision == "float16":
            # SDXL's VAE overflows in float16; those made not to say so in this field
            self.decode_precision = torch.float32
        self.vae = parts.vae.to(device=device, dtype=self.decode_precision, memory_format=torch.channels_last)
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def unet(self) -> Any:
        """The UNet that denoises; a new one, on the device and in the precision, may take its place."""
        return self.denoiser.unet

    @unet.setter
    def unet(self, unet: Any) -> None:
        self.denoiser = self._denoiser(unet)

    def _denoiser(self, unet: Any, *, compiled: bool = False) -> Denoiser:
        return Denoiser(unet, PRECISIONS[self.precision], self.device, compiled=compiled)

    def compile(self) -> None:
        """Have the denoiser compiled, when its next batch comes. Raises: BadInput: not on a GPU."""
        self.denoiser = self._denoiser(self.unet, compiled=True)

    def warm_up(self) -> None:
        """Run the denoiser once in each number of rows, on pictures of the model's own size; compile nothing after.

        Raises: OutOfMemory, ItemFailed: as a denoising step.
        """
        item = RenderItem("", "", width=self.card.size, height=self.card.size)
        told = self.condition([item], [None])
        for count in self.denoiser.counts:
            context = told.context(Rows((0,) * count, (Branch.JOINT,) * count, (1.0,) * count))
            latents = torch.zeros((count, *self.latent_shape(item.width, item.height)), device=self.device)
            self.predict(latents, torch.tensor(1.0), context)
        self.denoiser.settle()

    @classmethod
    def load(cls, folder: Path, *, digest: str, device: str = "auto", precision: str = "auto") -> Pipeline:
        """Load a model folder or single file; `digest` is what `models.digest_model` says of it.

        Raises: ModelMissing: the folder, a weight or the device is not there. BadInput: pickled weights,
        components that don't fit each other, a sampler or steps in the card that the model can't be run with, an
        unknown device or precision.
        """
        chosen = pick_device(device)
        kind = pick_precision(precision, chosen)
        if chosen.type == "cuda" and kind == "float32":
            # TF32 keeps 10 bits: what asks for float32 gets it, in convolutions too (promise P10)
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        parts = read_parts(folder, PRECISIONS[kind], DECODE_PRECISIONS[kind])
        try:
            make_scheduler(parts.scheduler_config, parts.card.sampler, parts.card.steps)
        except BadInput as error:
            raise BadInput(f"{folder}: what its card says where a list says nothing can't be made: {error}") from error
        with device_errors("the model"):
            pipeline = cls(parts, digest=digest, device=chosen, precision=kind)
        pipeline.place = folder
        return pipeline

    def facts(self) -> dict[str, Any]:
        """Return what a worker offers with this model, as plain JSON values."""
        return {
            "name": self.card.name,
            "size": self.card.size,
            "aspect": self.card.aspect,
            "precision": self.precision,
            "tokens": self.card.tokens,
            "embedder_digest": self.card.embedder_digest,
            "embedder_dim": self.card.embedder_dim,
            "guidance": asdict(self.card.guidance),
            "steps": self.card.steps,
            "sampler": self.card.sampler,
            "licences": self.card.licences,
            **({"gate": asdict(self.card.gate)} if self.card.gate else {}),
            "device": str(self.device),
        }

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Return (channels, height, width) of the latents of a picture. Raises: BadInput: sizes that can't be made."""
        for name, value in (("width", width), ("height", height)):
            if value < self.factor or value % self.factor:
                raise BadInput(f"{name} is {value} px; a positive multiple of {self.factor} is needed")
        return int(self.unet.config.in_channels), height // self.factor, width // self.factor

    def encode_prompts(self, prompts: Sequence[str]) -> tuple[EncodedTexts, dict[str, int]]:
        """Encode each distinct prompt once; the mapping says which row is whose."""
        row_of = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        with torch.inference_mode(), device_errors("the prompts"):
            return encode_texts(self.encoders, list(row_of), self.card.tokens), row_of

    def encode_faces(self, embeddings: Sequence[np.ndarray]) -> Tensor:
        """Return face tokens (1 + n, k, d) of normalised embeddings (d,); row 0 says no face.

        That is zero tokens, or with a face adapter what it makes of a zero embedding.
        """
        with torch.inference_mode(), device_errors("the faces"):
            if isinstance(self.mapper, FaceProjection):
                nobody = self.mapper.no_face()
            else:
                nobody = torch.zeros((1, self.mapper.tokens, self.mapper.text_width), device=self.device)
            if not embeddings:
                return nobody
            stacked = torch.from_numpy(np.stack(embeddings).astype(np.float32, copy=False)).to(self.device)
            return torch.cat([nobody, *(self.mapper(part) for part in stacked.split(at_once(stacked)))])

    def condition(self, items: Sequence[RenderItem], embeddings: Sequence[np.ndarray | None]) -> Conditioning:
        """Return what all branches of all items are told. `embeddings[i]` is item i's, None for no face.

        Where no text is said (the FACE branch; the NONE branch without a negative prompt) most models are told
        the encoded empty prompt, and those with `force_zeros_for_empty_prompt` zeros: tokens and pooled vector.
        """
        prompts = [text for item in items for text in (item.prompt, item.negative_prompt)]
        texts, row_of = self.encode_prompts(["", *prompts])
        nothing = row_of[""]
        if self._zeros_say_nothing:
            texts, nothing = texts.with_zeros(), len(texts.tokens)
        faces = self.encode_faces([one for one in embeddings if one is not None])
        text_of, face_of, seen = [], [], NO_FACE
        for item, embedding in zip(items, embeddings, strict=True):
            seen += embedding is not None
            face = NO_FACE if embedding is None else seen
            prompt, negative = row_of[item.prompt], row_of[item.negative_prompt]
            # in the order of Branch: joint, face, text, none
            text_of.append((prompt, nothing, prompt, negative if item.negative_prompt else nothing))
            face_of.append((face, face, NO_FACE, NO_FACE))
        truncated = tuple(
            texts.truncated[row_of[item.prompt]] or texts.truncated[row_of[item.negative_prompt]] for item in items
        )
        beside = self.card.adapter is not None
        told = Conditioning(texts.tokens, faces, tuple(text_of), tuple(face_of), truncated, beside=beside)
        if self.has_second_encoder:
            told = replace(told, pooled=texts.pooled, sizes=self._sizes(items))
        # once, not in every step
        return told.to(PRECISIONS[self.precision])

    def _sizes(self, items: Sequence[RenderItem]) -> Tensor:
        """Return SDXL's six sizes per item (items, 6): the whole picture, not cropped, of the size asked for."""
        said = [(item.height, item.width, 0, 0, item.height, item.width) for item in items]
        return torch.tensor(said, dtype=torch.float32, device=self.device)

    def predict(self, latents: Tensor, timestep: Tensor, context: Context) -> Tensor:
        """Run the UNet once: `sampler.Predict`, in the pipeline's precision; returns float32."""
        with torch.inference_mode(), device_errors("a denoising step"):
            return self.denoiser(latents, timestep, context)

    def decode(self, latents: Tensor) -> np.ndarray:
        """Return pictures (n, height, width, 3) float32 in [0, 1] of clean latents (n, c, h, w).

        What the VAE makes of a broken latent stays visible: a NaN is returned as a NaN.
        """
        config = self.vae.config
        scaled = latents / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)
        if config.latents_mean is not None and config.latents_std is not None:
            mean = latents.new_tensor(config.latents_mean).view(1, -1, 1, 1)
            std = latents.new_tensor(config.latents_std).view(1, -1, 1, 1)
            scaled = latents * std / config.scaling_factor + mean
        most = max(1, DECODED_PX // (scaled.shape[2] * scaled.shape[3] * self.factor**2))
        with torch.inference_mode(), device_errors("decoding"):
            ready = scaled.to(self.decode_precision).contiguous(memory_format=torch.channels_last)
            if self.device.type == "cpu":
                each = max(1, most // torch.get_num_threads())
                return to_host(side_by_side(len(ready), lambda part: self._decoded(ready[part], each)))
            parts = [to_host(self._decoded(part, most)) for part in ready.split(most)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _decoded(self, latents: Tensor, most: int) -> Tensor:
        """Return pictures as `decode` does, on the device, of at most `most` latents at a time."""
        pixels = torch.cat([self.vae.decode(few, return_dict=False)[0].float() for few in latents.split(most)])
        return (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).contiguous()

    def release(self) -> None:
        """Give memory that torch keeps for later back to the device, before a smaller batch is tried."""
        self.denoiser.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

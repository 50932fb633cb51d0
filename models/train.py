"""Train the bundled model: DINO with an instance term, on the training cases of the split.

    python models/train.py --data ../shared/data --out models/runs/first --minutes 60
    python models/train.py --data ../shared/data --out models/runs/first --minutes 60 --resume

loss = 0.5 · DINO (student and EMA teacher, Sinkhorn targets, multi-crop)
     + InfoNCE over the views (another slice is another instance; neighbours are not held against)
     + 0.1 · KoLeo (spread the embeddings over the sphere)

The views are the paper's near-duplicate operations (``augment.py``). Needs torch; runs on a CPU.
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

import augment
import cases
import vit
from diptych.embed.prepare import prepare

SOURCE = 144  # pixels: slices are kept larger than the input so that a zoom has something to show
LOCAL = 64  # pixels: DINO's local crops
PROTOTYPES = 2048
TEMPERATURE_STUDENT, TEMPERATURE_TEACHER = 0.1, 0.05
TEMPERATURE_INSTANCE = 0.06
WEIGHT_DINO, WEIGHT_INSTANCE, WEIGHT_KOLEO = 0.5, 1.0, 0.1
NEIGHBOURS = 2  # slices on either side that are too alike to be called different
BATCH = 128
KEPT, ALL_KEPT_FROM = 0.5, 0.85  # share of patches the student sees, until this progress
HARD_VOLUMES = 4  # half of a batch comes from so few volumes
RATE, RATE_LAST, DECAY, WARM_UP = 1e-3, 1e-5, 0.04, 0.04
MOMENTUM = 0.99  # of the teacher, rising to 1
FLATTEST = 0.03  # standard deviation of a prepared slice below which it teaches nothing
PHANTOMS = 12
SAVE_EVERY = 150  # seconds


@dataclass
class Slices:
    """Every training slice: pixels (n, SOURCE, SOURCE), and what is needed to tell them apart."""

    pixels: torch.Tensor
    aspect: torch.Tensor
    volume: torch.Tensor
    patient: torch.Tensor
    place: torch.Tensor

    def __len__(self) -> int:
        return len(self.pixels)


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    slices = read_slices(options.data, options.split)
    trainer = Trainer(slices, options)
    checkpoint = options.out / "checkpoint.pt"
    if options.resume and checkpoint.exists():
        trainer.restore(checkpoint)
    trainer.run(checkpoint)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--split", type=Path, default=cases.HERE / "split.toml")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint and curve")
    parser.add_argument("--minutes", type=float, default=60, help="length of the schedule")
    parser.add_argument("--steps", type=int, help="length in steps instead: repeatable bit for bit")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args()


class Trainer:
    """Student, teacher, heads and schedule; one step at a time."""

    def __init__(self, slices: Slices, options: argparse.Namespace) -> None:
        self.slices, self.options = slices, options
        self.student = vit.VisionTransformer(**vit.BUNDLED)
        self.student_head = vit.DinoHead(vit.BUNDLED["embed_dim"], PROTOTYPES)
        self.teacher = copy.deepcopy(self.student)
        self.teacher_head = copy.deepcopy(self.student_head)
        for parameter in [*self.teacher.parameters(), *self.teacher_head.parameters()]:
            parameter.requires_grad_(False)
        self.parameters = [*self.student.parameters(), *self.student_head.parameters()]
        matrices = [p for p in self.parameters if p.ndim > 1]
        vectors = [p for p in self.parameters if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0}],
            lr=RATE,
        )
        self.step, self.elapsed = 0, 0.0

    def run(self, checkpoint: Path) -> None:
        saved = begun = time.monotonic()
        before = self.elapsed
        while self.progress() < 1:
            figures = self.one_step()
            self.elapsed = before + time.monotonic() - begun
            if self.step % 10 == 0:
                self.report(figures)
            if time.monotonic() - saved > SAVE_EVERY:
                self.save(checkpoint)
                saved = time.monotonic()
        self.save(checkpoint)

    def progress(self) -> float:
        if self.options.steps:
            return self.step / self.options.steps
        return self.elapsed / (60 * self.options.minutes)

    def one_step(self) -> dict[str, float]:
        progress = min(1.0, self.progress())
        warm = min(1.0, progress / WARM_UP)
        rate = warm * (RATE_LAST + (RATE - RATE_LAST) * (1 + math.cos(math.pi * progress)) / 2)
        for group in self.optimiser.param_groups:
            group["lr"] = max(rate, RATE_LAST)
        chosen = draw(self.slices)
        figures = self.losses(chosen, KEPT if progress < ALL_KEPT_FROM else 1.0)
        total = (
            WEIGHT_DINO * figures["dino"]
            + WEIGHT_INSTANCE * figures["instance"]
            + WEIGHT_KOLEO * figures["koleo"]
        )
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 3.0)
        if torch.isfinite(norm):
            self.optimiser.step()
        self.follow(1 - (1 - MOMENTUM) * (1 + math.cos(math.pi * progress)) / 2)
        self.step += 1
        return {name: value.item() for name, value in figures.items()} | {"rate": rate}

    def losses(self, chosen: torch.Tensor, kept: float) -> dict[str, torch.Tensor]:
        x, aspect = self.slices.pixels[chosen].float().unsqueeze(1), self.slices.aspect[chosen]
        size, n = vit.BUNDLED["img_size"], len(chosen)
        clean = augment.light_view(x, aspect, size)
        first, second = (augment.damaged_view(x, aspect, size) for _ in range(2))
        local = augment.local_view(x, aspect, LOCAL)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                known = self.teacher(clean).float()
                scores_known = self.teacher_head(known).float()
            globals_ = self.student(torch.cat([first, second]), kept).float()
            locals_ = self.student(local).float()
            scores = self.student_head(torch.cat([globals_, locals_])).float()
        target = sinkhorn(scores_known / TEMPERATURE_TEACHER)
        scores = [F.log_softmax(part / TEMPERATURE_STUDENT, -1) for part in scores.split(n)]
        dino = sum(-(target * part).sum(-1).mean() for part in scores) / len(scores)
        z = F.normalize(globals_, dim=-1)
        key = F.normalize(known, dim=-1)
        usable = comparable(self.slices, chosen)
        return {
            "dino": dino,
            "instance": info_nce(z[:n], z[n:], key, usable),
            "koleo": koleo(z[:n]),
            "accuracy": (nearest(z[:n], key, usable)),
        }

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """The teacher is the moving average of the student."""
        for mine, theirs in (
            (self.teacher, self.student),
            (self.teacher_head, self.student_head),
        ):
            for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
                p.lerp_(q, 1 - momentum)

    def report(self, figures: dict[str, float]) -> None:
        row = {"step": self.step, "minutes": round(self.elapsed / 60, 2)}
        row |= {name: round(value, 6) for name, value in figures.items()}
        print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)
        path = self.options.out / "curve.csv"
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if fresh:
                writer.writeheader()
            writer.writerow(row)

    def save(self, path: Path) -> None:
        state = {
            "config": vit.BUNDLED, "step": self.step, "elapsed": self.elapsed,
            "student": self.student.state_dict(), "teacher": self.teacher.state_dict(),
            "student_head": self.student_head.state_dict(),
            "teacher_head": self.teacher_head.state_dict(),
            "optimiser": self.optimiser.state_dict(), "random": torch.get_rng_state(),
            "slices": len(self.slices), "seed": self.options.seed,
        }  # fmt: skip
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(path)

    def restore(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        for name in ("student", "teacher", "student_head", "teacher_head"):
            getattr(self, name).load_state_dict(state[name])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"])
        self.step, self.elapsed = state["step"], state["elapsed"]
        print(f"resumed at step {self.step}, {self.elapsed / 60:.1f} minutes")


def sinkhorn(scores: torch.Tensor, rounds: int = 3) -> torch.Tensor:
    """Targets in which every prototype gets its share of the batch (SwAV; used by DINOv2)."""
    q = torch.exp(scores - scores.max()).T
    prototypes, n = q.shape
    for _ in range(rounds):
        q = q / q.sum(1, keepdim=True).clamp(min=1e-12) / prototypes
        q = q / q.sum(0, keepdim=True).clamp(min=1e-12) / n
    return (q * n).T


def info_nce(
    a: torch.Tensor, b: torch.Tensor, key: torch.Tensor, usable: torch.Tensor
) -> torch.Tensor:
    """Every view of a slice against the other slices' views; ``usable[i, j]``: j is a negative."""
    views = [a, b]
    total = a.new_zeros(())
    for anchor, positives in ((a, (b, key)), (b, (a, key))):
        against = torch.cat([anchor @ other.T for other in (*views, key)], 1) / TEMPERATURE_INSTANCE
        against = against.masked_fill(~usable.repeat(1, 3), -1e4)
        denominator = torch.logsumexp(against, 1)
        for positive in positives:
            s = (anchor * positive).sum(1) / TEMPERATURE_INSTANCE
            total = total + (torch.logaddexp(s, denominator) - s).mean() / 4
    return total


def koleo(z: torch.Tensor) -> torch.Tensor:
    """Kozachenko–Leonenko entropy: push every embedding away from its nearest neighbour."""
    with torch.no_grad():
        similarity = z @ z.T
        similarity.fill_diagonal_(-2)
        other = similarity.argmax(1)
    return -torch.log((z - z[other]).norm(dim=1) + 1e-6).mean()


@torch.no_grad()
def nearest(z: torch.Tensor, key: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
    """How often a damaged slice finds itself among the batch's clean ones."""
    similarity = z @ key.T
    own = similarity.diagonal()
    best = similarity.masked_fill(~usable, -2).amax(1)
    return (own > best).float().mean()


def comparable(slices: Slices, chosen: torch.Tensor) -> torch.Tensor:
    """True where slice j may be held against slice i.

    Not the slice itself, not its neighbours, and nothing of the same patient in another volume:
    other sequences, dates and reslicings show the same thing.
    """
    volume, place, patient = (t[chosen] for t in (slices.volume, slices.place, slices.patient))
    same_volume = volume[:, None] == volume
    near = (place[:, None] - place).abs() <= NEIGHBOURS
    same_patient = patient[:, None] == patient
    return ~(same_volume & near) & ~(same_patient & ~same_volume)


def draw(slices: Slices) -> torch.Tensor:
    """Half a batch from few volumes, each other's hard negatives, and half from all."""
    volumes = int(slices.volume.max()) + 1
    few = torch.randperm(volumes)[:HARD_VOLUMES]
    hard = []
    for volume in few:
        members = torch.nonzero(slices.volume == volume).flatten()
        hard.append(members[torch.randperm(len(members))[: BATCH // 2 // HARD_VOLUMES]])
    size = torch.bincount(slices.volume, minlength=volumes).float()
    weight = size.rsqrt()[slices.volume]
    rest = torch.multinomial(weight, BATCH - sum(len(h) for h in hard))
    return torch.cat([*hard, rest])


def read_slices(data: Path, split: Path) -> Slices:
    """All training slices; brains and CT also cut along the other two axes, for more anatomies."""
    pixels, aspect, volume, patient, place = [], [], [], [], []
    people: dict[str, int] = {}
    count = 0
    for person, stack in training_stacks(data, split):
        prepared = prepare(stack, SOURCE)
        kept = np.flatnonzero(prepared.std(axis=(1, 2)) >= FLATTEST)
        if len(kept) == 0:
            continue
        pixels.append(torch.from_numpy(prepared[kept]).half())
        aspect += [stack.shape[2] / stack.shape[1]] * len(kept)
        volume += [count] * len(kept)
        patient += [people.setdefault(person, len(people))] * len(kept)
        place += kept.tolist()
        count += 1
    slices = Slices(
        torch.cat(pixels), torch.tensor(aspect), torch.tensor(volume), torch.tensor(patient),
        torch.tensor(place),
    )  # fmt: skip
    print(f"{len(slices)} slices, {count} stacks, {len(people)} patients and phantoms", flush=True)
    return slices


def training_stacks(data: Path, split: Path):
    for case in cases.read_split(split):
        if case.set != "train":
            continue
        stack = cases.load(case, data)
        yield case.patient, stack
        if case.anatomy in ("brain-t1", "brain-fl", "torso") and min(stack.shape) > 64:
            yield case.patient, stack.transpose(1, 0, 2)[:, ::-1][::2]
            yield case.patient, stack.transpose(2, 0, 1)[:, ::-1][::2]
    for number in range(PHANTOMS):
        yield f"phantom-{number}", phantom(number)


def phantom(seed: int) -> np.ndarray:
    """Ellipsoids in an ellipsoid, (32, 96, 96): shapes no scanner shows, for variety."""
    random = np.random.default_rng(seed)
    z, y, x = np.mgrid[-1:1:32j, -1:1:96j, -1:1:96j]
    wide, high = random.uniform(0.6, 0.9, 2)
    body = (x / wide) ** 2 + (y / high) ** 2 < 1 - 0.2 * z**2
    out = np.where(body, 0.4, 0.0)
    for _ in range(random.integers(6, 20)):
        cx, cy, cz = random.uniform(-0.6, 0.6, 3)
        rx, ry, rz = random.uniform(0.05, 0.4, 3)
        inside = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / (2 * rz)) ** 2 < 1
        out[inside & body] = random.uniform(0, 1)
    return (out + random.normal(0, 0.02, out.shape) * body).astype(np.float32)


if __name__ == "__main__":
    main()

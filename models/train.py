"""Train a model: DINO with an instance term, on the training cases of the split.

    python models/train.py --data ../shared/data --out models/runs/second --minutes 60
    python models/train.py --data ../shared/data --out models/runs/second --minutes 60 --resume
    … --network hybrid|vit --steps 800          a candidate; repeatable bit for bit on one machine
    … --without hippocampus                     an anatomy left out
    … --dino 0 | --instance 0 | --koleo 0       the ablation
    … --device cuda --batch 512 --threads 8     on a GPU

loss = 0.5 · DINO (student and EMA teacher, Sinkhorn targets, multi-crop)
     + InfoNCE over the views (another slice is another instance; neighbours are not held against)
     + 0.1 · KoLeo (spread the embeddings over the sphere)

The teacher sees the slice clean, the student damaged: by the paper's near-duplicate operations
(``augment.py``), blur over three dimensions at the volume's own resolution, noise as the resize
leaves it. Needs torch.
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812

import augment
import cases
import losses
import networks
import trainset

LOCAL = 64  # pixels: DINO's local crops
PROTOTYPES = 2048
TEMPERATURE_STUDENT, TEMPERATURE_TEACHER = 0.1, 0.05
BLURRED = (0.58, 0.06, 0.1, 0.13, 0.13)  # how often the student's slice is sharp or blurred so
RATE, RATE_LAST, DECAY, WARM_UP = 2e-3, 1e-5, 0.04, 0.04
MOMENTUM = 0.99  # of the teacher, rising to 1
SAVE_EVERY = 150  # seconds


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    slices = trainset.read_slices(options.data, options.split, options.without)
    torch.set_default_device(options.device)
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
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=160)
    parser.add_argument("--network", choices=sorted(networks.CONFIGS), default="pyramid")
    parser.add_argument("--without", nargs="*", default=[], help="anatomies to leave out")
    parser.add_argument("--dino", type=float, default=0.5, help="weight of the term")
    parser.add_argument("--instance", type=float, default=1.0, help="weight of the term")
    parser.add_argument("--koleo", type=float, default=0.1, help="weight of the term")
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args()


class Trainer:
    """Student, teacher, heads and schedule; one step at a time."""

    def __init__(self, slices: trainset.Slices, options: argparse.Namespace) -> None:
        self.slices, self.options = slices, options
        self.config = networks.CONFIGS[options.network]
        layout = torch.channels_last if options.network != "vit" else torch.contiguous_format
        self.student = networks.build(self.config).to(memory_format=layout)
        self.student_head = losses.DinoHead(networks.dimension(self.config), PROTOTYPES)
        self.teacher = copy.deepcopy(self.student).eval()
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
        figures = self.losses(trainset.draw(self.slices, self.options.batch))
        total = (
            self.options.dino * figures["dino"]
            + self.options.instance * figures["instance"]
            + self.options.koleo * figures["koleo"]
        )
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 3.0)
        if torch.isfinite(norm):
            self.optimiser.step()
        self.follow(1 - (1 - MOMENTUM) * (1 + math.cos(math.pi * progress)) / 2)
        self.step += 1
        return {name: value.item() for name, value in figures.items()} | {"rate": rate}

    def losses(self, chosen: torch.Tensor) -> dict[str, torch.Tensor]:
        slices, size, n = self.slices, self.config["img_size"], len(chosen)
        device = self.options.device
        sharp = slices.pixels[0, chosen].to(device).float().unsqueeze(1)
        aspect, native = slices.aspect[chosen].to(device), slices.native[chosen].to(device)
        clean = augment.light_view(sharp, aspect, size)
        views = []
        for _ in range(2):
            blurred = torch.multinomial(torch.tensor(BLURRED), n, replacement=True).cpu()
            x = slices.pixels[blurred, chosen].to(device).float().unsqueeze(1)
            views.append(augment.damaged_view(x, aspect, native, size))
        local = augment.local_view(sharp, aspect, native, LOCAL)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            with torch.no_grad():
                known = self.teacher(clean).float()
                scores_known = self.teacher_head(known).float()
            globals_ = self.student(torch.cat(views)).float()
            locals_ = self.student(local).float()
            scores = self.student_head(torch.cat([globals_, locals_])).float()
        target = losses.sinkhorn(scores_known / TEMPERATURE_TEACHER)
        scores = [F.log_softmax(part / TEMPERATURE_STUDENT, -1) for part in scores.split(n)]
        dino = sum(-(target * part).sum(-1).mean() for part in scores) / len(scores)
        z = F.normalize(globals_, dim=-1)
        key = F.normalize(known, dim=-1)
        usable = trainset.comparable(self.slices, chosen).to(device)
        return {
            "dino": dino,
            "instance": losses.info_nce(z[:n], z[n:], key, usable),
            "koleo": losses.koleo(z[:n]),
            "accuracy": losses.nearest(z[:n], key, usable),
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
            for p, q in zip(mine.buffers(), theirs.buffers(), strict=True):
                p.copy_(q)

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
            "config": self.config, "step": self.step, "elapsed": self.elapsed,
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
        state = torch.load(path, weights_only=True, map_location=self.options.device)
        for name in ("student", "teacher", "student_head", "teacher_head"):
            getattr(self, name).load_state_dict(state[name])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"].cpu())
        self.step, self.elapsed = state["step"], state["elapsed"]
        print(f"resumed at step {self.step}, {self.elapsed / 60:.1f} minutes")


if __name__ == "__main__":
    main()

"""Meta's published checkpoints: where each lies, what it is, and its checksum where it is known.

Addresses: ``hubconf.py`` of facebookresearch/dino and facebookresearch/dinov2. Both publish no
checksum. A pinned one is that of the file at the address as many independent projects report it;
where none is pinned, the checksum is recorded when the file is first used.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SIZE = 224
"""Pixels a side: what DINO was trained at, and the paper's; DINOv2's positions are for 518."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_META = "https://dl.fbaipublicfiles.com"


@dataclass(frozen=True)
class Checkpoint:
    """One published file. sha256 None: known to nobody. second: DINOv2, not DINO."""

    name: str
    url: str
    sha256: str | None
    embed_dim: int
    patch_size: int
    num_heads: int
    second: bool = field(default=False, repr=False)
    licence: str = "Apache-2.0"

    @property
    def file_name(self) -> str:
        """As the publisher calls it."""
        return self.url.rpartition("/")[2]

    @property
    def network(self) -> dict[str, int | bool]:
        """Keyword arguments of ``VisionTransformer``: shapes as published."""
        common = {
            "patch_size": self.patch_size, "in_chans": 3, "embed_dim": self.embed_dim, "depth": 12,
            "num_heads": self.num_heads,
        }  # fmt: skip
        if not self.second:
            return {"img_size": SIZE, **common}
        return {"img_size": 518, **common, "layer_scale": True, "mask_token": True}


OFFICIAL = {
    checkpoint.name: checkpoint
    for checkpoint in (
        Checkpoint(
            "dinov1-vits16",
            f"{_META}/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
            None, 384, 16, 6,
        ),
        Checkpoint(
            "dinov1-vits8",
            f"{_META}/dino/dino_deitsmall8_pretrain/dino_deitsmall8_pretrain.pth",
            None, 384, 8, 6,
        ),
        Checkpoint(
            "dinov1-vitb16",
            f"{_META}/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
            "bf34ad0f424b9029b593e8dc3ed553bf26e88bcba0d32bf3e62a6209cb64c85e", 768, 16, 12,
        ),
        Checkpoint(
            "dinov2-vits14",
            f"{_META}/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth",
            "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9", 384, 14, 6, True,
        ),
        Checkpoint(
            "dinov2-vitb14",
            f"{_META}/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
            "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73", 768, 14, 12, True,
        ),
    )
}  # fmt: skip

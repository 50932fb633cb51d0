"""Is this SOP class an image? (PS3.4 §B.5)

Decided by what could be bought or archived twice *as an acquisition*. Segmentations, RT dose and
plans, presentation states and the like are derived from images: they are `not-an-image`, silently,
because the images they belong to are judged. Parametric maps stay images: they are delivered and
archived as volumes in their own right.
"""

from __future__ import annotations

from pydicom.uid import UID

_ROOT = "1.2.840.10008.5.1.4.1.1."

_NOT_AN_IMAGE = {
    "1.2.840.10008.1.3.10": "media directory",
    _ROOT + "4.2": "MR spectroscopy",
    _ROOT + "8": "overlay",
    _ROOT + "9": "curve",
    _ROOT + "10": "look-up table",
    _ROOT + "11": "look-up table",
    _ROOT + "66": "raw data",
    _ROOT + "66.1": "spatial registration",
    _ROOT + "66.2": "spatial fiducials",
    _ROOT + "66.3": "deformable registration",
    _ROOT + "66.4": "segmentation",
    _ROOT + "66.5": "surface segmentation",
    _ROOT + "66.6": "tractography",
    _ROOT + "66.7": "label map segmentation",
    _ROOT + "66.8": "height map segmentation",
    _ROOT + "67": "real world value mapping",
    _ROOT + "68.1": "surface scan mesh",
    _ROOT + "68.2": "surface scan point cloud",
    _ROOT + "77.1.5.3": "stereometric relationship",
    _ROOT + "79.1": "macular grid",
    _ROOT + "90.1": "content assessment",
    _ROOT + "91.1": "microscopy annotations",
    _ROOT + "201.1": "storage management",
}

_NOT_AN_IMAGE_FAMILIES = {
    _ROOT + "9.": "waveform",
    _ROOT + "11.": "presentation state",
    _ROOT + "78.": "ophthalmic measurement",
    _ROOT + "80.": "ophthalmic measurement",
    _ROOT + "88.": "structured report",
    _ROOT + "104.": "encapsulated document",
    _ROOT + "200.": "procedure protocol",
    _ROOT + "481.": "radiotherapy object",
    "1.2.840.10008.5.1.4.34.": "radiotherapy or procedure object",
    "1.2.840.10008.5.1.4.38.": "hanging protocol",
    "1.2.840.10008.5.1.4.39.": "colour palette",
    "1.2.840.10008.5.1.4.43.": "implant template",
    "1.2.840.10008.5.1.4.44.": "implant template",
    "1.2.840.10008.5.1.4.45.": "implant template",
}

_IMAGES_INSIDE_FAMILIES = {_ROOT + "481.1", _ROOT + "481.23"}
"""RT Image and Enhanced RT Image: portal images, acquired."""


def not_an_image(sop_class_uid: str) -> str | None:
    """The kind of object in words when it is certainly not an image, else None."""
    if sop_class_uid in _IMAGES_INSIDE_FAMILIES:
        return None
    if kind := _NOT_AN_IMAGE.get(sop_class_uid):
        return kind
    for prefix, kind in _NOT_AN_IMAGE_FAMILIES.items():
        if sop_class_uid.startswith(prefix):
            return kind
    return None


def declares_image(sop_class_uid: str) -> bool:
    """True for a standard storage class that must carry pixels (its name says Image)."""
    name = UID(sop_class_uid).name if sop_class_uid else ""
    return "Image Storage" in name or "Image Multi" in name or "Parametric Map" in name

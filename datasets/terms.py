"""Under which terms well-known face data are published, for model cards. A summary, no legal advice: terms change, and
the publishers' own words count. Rights of the photographs, and of the people in them, stay with their owners.
"""
from pathlib import Path

UNKNOWN = "not known to this project: state where the images come from and on what terms"
_RESEARCH = "research only, non-commercial"
_DATA = {  # names of folders and packs: (title, terms)
    ("emore", "faces_emore", "ms1mv2", "faces_ms1m_112x112"): (
        "MS1MV2, a cleaned MS-Celeb-1M", f"{_RESEARCH}; MS-Celeb-1M was withdrawn by its publisher in 2019"),
    ("retina", "ms1m-retinaface-t1", "ms1mv3"): (
        "MS1MV3, a cleaned MS-Celeb-1M", f"{_RESEARCH}; MS-Celeb-1M was withdrawn by its publisher in 2019"),
    ("glint360k", "glint"): ("Glint360K", _RESEARCH),
    ("webface4m", "webface12m", "webface42m", "webface260m"): (
        "WebFace260M or a part of it", f"{_RESEARCH}, by agreement with its publishers"),
    ("faces_webface_112x112", "casia", "casia-webface"): (
        "CASIA-WebFace", f"{_RESEARCH}, by agreement with its publishers"),
    ("faces_vgg_112x112", "vggface2", "vgg2_fp"): (
        "VGGFace2", "research; no longer given out by its publishers"),
    ("celeba",): ("CelebA", _RESEARCH),
    ("lfw",): ("Labeled Faces in the Wild", "research; its authors say that no result on it shows a system to be fit "
               "for commercial use"),
    ("calfw", "cplfw"): ("CALFW or CPLFW, of LFW's people", "research, as LFW"),
    ("cfp_ff", "cfp_fp"): ("CFP", _RESEARCH),
    ("agedb_30",): ("AgeDB", f"{_RESEARCH}, on request from its publishers"),
    ("ytf",): ("YouTube Faces", "research"),
    ("facescrub",): ("FaceScrub", _RESEARCH),
    ("megaface",): ("MegaFace", f"{_RESEARCH}; no longer given out by its publishers since 2020"),
    ("ijbb", "ijbc"): ("IJB-B or IJB-C", "by agreement with NIST"),
    ("demo", "rendered"): ("faces drawn from numbers by datasets/rendered.py",
                           "no photograph and no person is in them; free, as this project's code"),
}
_BY_NAME = {name: found for names, found in _DATA.items() for name in names}


def terms_of(name):
    """(Title, terms) of a data set or verification pack, as text. name: its name or path; UNKNOWN for other data."""
    name = str(name).rstrip("/")
    return _BY_NAME.get(Path(name).name.rsplit(".bin", 1)[0].lower(), (name or "training data", UNKNOWN))

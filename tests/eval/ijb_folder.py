"""IJB's metadata and images made up, in the official layout, for the tests."""
from pathlib import Path


def write_folder(root, target, subjects, faces, landmarks):
    """Write `<root>/<target>/`: of each subject a gallery template and as many probes as are left.

    subjects: list of templates, lists of media, lists of image numbers; even subjects are in G1, odd ones in G2.
    faces: encoded images by number; landmarks: (N, 5, 2). All pairs of gallery and probe are to be verified.
    Returns dict template -> (subject, media).
    """
    folder, name = Path(root, target), target.lower()
    for part in ("meta", "loose_crop"):
        (folder / part).mkdir(parents=True)
    templates, ids, points, galleries, probes = {}, [], [], ([], []), []
    for subject, parts in enumerate(subjects):
        for place, media in enumerate(parts):
            template = 7 * len(templates) + 3
            templates[template] = subject, media
            (probes if place else galleries[subject % 2]).append((template, subject))
            for medium, images in enumerate(media):
                for image in images:
                    ids.append(f"{image}.jpg {template} {1000 * subject + medium}")
                    points.append(" ".join([f"{image}.jpg", *(f"{x:.3f}" for x in landmarks[image].ravel()),
                                            f"{0.5 + image % 50 / 100:.2f}"]))
                    (folder / "loose_crop" / f"{image}.jpg").write_bytes(faces[image])
    pairs = [f"{first} {second} {one == other:d}" for first, one in sum(galleries, []) for second, other in probes]
    lists = {"face_tid_mid.txt": ids, "name_5pts_score.txt": points, "template_pair_label.txt": pairs}
    for number, gallery in enumerate(galleries, 1):
        lists[f"1N_gallery_G{number}.csv"] = _table(gallery)
    lists["1N_probe_mixed.csv"] = _table(probes)
    for end, lines in lists.items():
        (folder / "meta" / f"{name}_{end}").write_text("".join(f"{line}\n" for line in lines))
    return templates


def _table(rows):
    return ["TEMPLATE_ID,SUBJECT_ID,FILENAME"] + [f"{template},{subject},img/{template}.jpg" for template, subject in
                                                  rows for _ in range(2)]

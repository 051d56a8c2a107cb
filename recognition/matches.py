"""What a search found, as lines and as a table."""
from common.files import write_csv


def describe(found, matches):
    """Lines on the faces of a picture. found: an Embedded; matches: a list of Match for each of its faces."""
    if found.problem:
        return [f"left out: {found.problem}"]
    many = len(found.faces) > 1
    return [f"{found.name}{_place(face) if many else ''}: {_verdict(near)}"
            for face, near in zip(found.faces, matches)]


def _place(face):
    return " face at " + ",".join(f"{value:.0f}" for value in face.box)


def _verdict(matches):
    near = ", ".join(f"{match.name} {match.similarity:.4f}" for match in matches)
    if matches[0].accepted is None:
        return f"nearest {near}"
    return near if matches[0].accepted else f"unknown (nearest {near})"


def write_matches(path, results):
    """Write all matches as CSV: picture, face (its number, from 1), rank, name, similarity, accepted (1, 0, or empty
    where no threshold is known), and problem of a picture without a face.

    results: list of (Embedded, matches of its faces).
    """
    rows = []
    for found, matches in results:
        if found.problem:
            rows.append(_row(found.name, problem=found.problem))
        rows += [_row(found.name, face, rank, match.name, f"{match.similarity:.6f}",
                      "" if match.accepted is None else int(match.accepted))
                 for face, near in enumerate(matches, 1) for rank, match in enumerate(near, 1)]
    write_csv(path, rows)


def _row(picture, face="", rank="", name="", similarity="", accepted="", problem=""):
    return dict(picture=picture, face=face, rank=rank, name=name, similarity=similarity, accepted=accepted,
                problem=problem)

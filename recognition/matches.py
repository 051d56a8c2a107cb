"""What a search found, as lines and as a table."""


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


def table_rows(found, matches):
    """Rows of a table for the matches of a picture's faces: a list of dicts.

    picture; face, its number, from 1; rank; name; similarity; accepted: 1, 0, or empty where no threshold is known;
    problem: why a picture has no face, then in its only row.
    """
    if found.problem:
        return [_row(found.name, problem=found.problem)]
    return [_row(found.name, face, rank, match.name, f"{match.similarity:.6f}",
                 "" if match.accepted is None else int(match.accepted))
            for face, near in enumerate(matches, 1) for rank, match in enumerate(near, 1)]


def _row(picture, face="", rank="", name="", similarity="", accepted="", problem=""):
    return dict(picture=picture, face=face, rank=rank, name=name, similarity=similarity, accepted=accepted,
                problem=problem)

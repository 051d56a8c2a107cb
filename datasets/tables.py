"""Numbers written as CSV."""
import numpy as np

from common.files import replacing


def write_table(path, form="%d", **columns):
    """Write columns of equal length, each under its name, whole or not at all.

    form: of all columns, or of each, as `numpy.savetxt` has it.
    """
    with replacing(path) as temporary:
        np.savetxt(str(temporary), np.column_stack(list(columns.values())), form, ",", header=",".join(columns),
                   comments="")

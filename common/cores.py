"""How many cores there are to use."""
import os
from pathlib import Path


def cpu_count():
    """Cores this process may use: its affinity, cut down to the container's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):  # no control groups, or 'max': no quota
        return cores

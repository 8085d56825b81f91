"""`python -m face0_worker.bench`: the same as `face0-worker bench`, without what the queue and the settings need."""

from face0_worker.bench.command import bench

if __name__ == "__main__":
    bench()

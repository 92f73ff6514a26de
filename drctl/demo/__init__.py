"""``make demo``: the main job, told in one terminal on real servers."""

from drctl.demo.story import run_demo

__all__ = ["run_demo"]

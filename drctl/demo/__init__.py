"""``make demo``: the main job, told in one terminal on real servers."""

from drctl.demo.story import Story, run_demo

__all__ = ["Story", "run_demo"]

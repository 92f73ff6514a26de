"""``make demo``: the main job, told in one terminal on real servers."""

from drctl.demo.story import Story, report_files, run_demo

__all__ = ["Story", "report_files", "run_demo"]

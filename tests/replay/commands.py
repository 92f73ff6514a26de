"""The commands of a run, as its history has them."""

from __future__ import annotations

from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHistory


def commands(history: WorkflowHistory) -> list[str]:
    """Activities with type and id, timers and the end: what a change of a table changes."""
    found = []
    for event in history.events:
        match event.event_type:
            case EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                scheduled = event.activity_task_scheduled_event_attributes
                found.append(f"{scheduled.activity_type.name} ({scheduled.activity_id})")
            case EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED:
                found.append("cancel an activity")
            case EventType.EVENT_TYPE_TIMER_STARTED:
                found.append("start a timer")
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
                update = event.workflow_execution_update_accepted_event_attributes
                found.append(f"accept {update.accepted_request.input.name}")
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
                found.append("continue as new")
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
                found.append("complete")
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
                failure = event.workflow_execution_failed_event_attributes.failure
                found.append(f"fail as {failure.application_failure_info.type}")
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
                found.append("end as cancelled")
            case _:
                pass
    return found

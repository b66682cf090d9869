"""Starts ministack with what it lacks and Terraform asks for; run by the interpreter that has ministack.

Batch: definitions keep all that they were given and can be taken back, queues and compute environments can be deleted,
a job must name a queue and a definition that are there. IAM: users have no SSH keys and the like, and it says so.
"""

import os
import sys
import threading

from ministack.app import main
from ministack.core.responses import error_response_json
from ministack.services import batch, iam

_register, _submit, _describe = (
    batch._DISPATCH[f"/v1/{name}"] for name in ("registerjobdefinition", "submitjob", "describejobdefinitions")
)


def _definitions(name):
    plain = name.rpartition("/")[2]
    return [
        each
        for revisions in batch._job_definitions.values()
        for each in revisions
        if not name or plain in (each["jobDefinitionName"], f"{each['jobDefinitionName']}:{each['revision']}")
    ]


def register(asked):
    reply = _register(asked)
    if asked.get("jobDefinitionName"):
        batch._job_definitions[asked["jobDefinitionName"]][-1].update(asked)
    return reply


def describe(asked):
    wanted = asked.get("jobDefinitions") or [asked.get("jobDefinitionName", "")]
    found = [each for name in wanted for each in _definitions(name)]
    return batch._json(
        200, {"jobDefinitions": [each for each in found if asked.get("status", each["status"]) == each["status"]]}
    )


def deregister(asked):
    for each in _definitions(asked["jobDefinition"]):
        each["status"] = "INACTIVE"
    return batch._json(200, {})


def submit(asked):
    if not any(each["status"] == "ACTIVE" for each in _definitions(asked["jobDefinition"])):
        return error_response_json("ClientException", f"no such definition: {asked['jobDefinition']}", 400)
    if asked["jobQueue"].rpartition("/")[2] not in batch._job_queues:
        return error_response_json("ClientException", f"no such queue: {asked['jobQueue']}", 400)
    return _submit(asked)


def update_queue(asked):
    queue = batch._job_queues[asked["jobQueue"].rpartition("/")[2]]
    queue.update({name: value for name, value in asked.items() if name != "jobQueue"})
    return batch._json(200, {"jobQueueName": queue["jobQueueName"], "jobQueueArn": queue["jobQueueArn"]})


def delete_queue(asked):
    return _delete(batch._job_queues, asked["jobQueue"])


def delete_environment(asked):
    return _delete(batch._compute_envs, asked["computeEnvironment"])


def _delete(things, name):
    plain = name.rpartition("/")[2]
    if things[plain]["state"] != "DISABLED":
        return error_response_json("ClientException", f"{plain} is not disabled", 400)
    del things[plain]
    return batch._json(200, {})


batch._DISPATCH |= {
    "/v1/updatejobqueue": update_queue,
    "/v1/deletejobqueue": delete_queue,
    "/v1/deletecomputeenvironment": delete_environment,
    "/v1/registerjobdefinition": register,
    "/v1/describejobdefinitions": describe,
    "/v1/deregisterjobdefinition": deregister,
    "/v1/submitjob": submit,
}

for kind in ("SSHPublicKeys", "SigningCertificates", "ServiceSpecificCredentials"):
    member = {"SigningCertificates": "Certificates"}.get(kind, kind)
    nothing = f"<List{kind}Result><{member}/><IsTruncated>false</IsTruncated></List{kind}Result>"
    iam._IAM_HANDLERS[f"List{kind}"] = lambda _, kind=kind, nothing=nothing: iam._xml(
        200, f"List{kind}Response", nothing
    )


def end_with_parent():
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    main()

"""The events of one run."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from contracts.leyline.v1 import event_pb2, leyline_pb2
from esper.leyline import ids
from esper.leyline.envelope import new_event


@dataclass
class Events:
    """Makes events of one run."""

    run_id: str
    sequence: int = 0

    def make(self, body, *, event_id=None, **fields):
        return new_event(
            body,
            event_id=event_id or ids.uuid7(time.time_ns(), os.urandom(10)),
            run_id=self.run_id,
            producer="trainer",
            recorded_at_ns=time.time_ns(),
            **fields,
        )

    def fact(self, body=None):
        self.sequence += 1
        return self.make(body or event_pb2.StateDigested(occasion="epoch"), sequence=self.sequence, incarnation=1)

    def telemetry(self, loss=1.0):
        return self.make(event_pb2.StepSampled(loss=loss))

    def emergency(self):
        return self.make(
            leyline_pb2.EmergencySignal(version=1, reason="test"), priority=leyline_pb2.MESSAGE_PRIORITY_CRITICAL
        )

    def epoch(self, *, policy="heuristic", epoch=10, **fields):
        """A state packet that the heuristic answers with a germination."""
        option = event_pb2.BlueprintOption(blueprint_id="BP009", parameters=170, flops_per_sample=2_000, residual=True)
        site = event_pb2.SiteDescription(site="body", seed_id="s1", shape_kind="vector", shape=[8], options=[option])
        state = leyline_pb2.SystemStatePacket(
            version=1,
            current_epoch=epoch,
            validation_loss=1.2,
            validation_accuracy=0.6,
            training_loss=1.1,
            training_run_id=self.run_id,
        )
        return self.fact(
            event_pb2.EpochCompleted(
                **{
                    "state": state,
                    "seeds": [event_pb2.SeedObservation(seed_id="s1", stage=leyline_pb2.SEED_LIFECYCLE_STAGE_DORMANT)],
                    "evidence": [event_pb2.SiteEvidence(seed_id="s1", gradient_norm=0.9)],
                    "sites": [site],
                    "probe_loss_history": [1.4, 1.3, 1.2],
                    "probe_loss_stderr": 0.05,
                    "epochs_total": 40,
                    "params": 696,
                    "params_host": 696,
                    "params_budget": 1_000,
                    "policy": policy,
                    "policy_seed": 11,
                    "epochs_since_structural_change": epoch,
                    **fields,
                }
            )
        )

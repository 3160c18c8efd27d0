"""The state packet: everything that a policy may know at the end of an epoch, in one message."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from contracts.leyline.v1.event_pb2 import EpochCompleted, SeedObservation, SiteEvidence
from contracts.leyline.v1.leyline_pb2 import (
    SEED_LIFECYCLE_STAGE_DORMANT,
    HardwareContext,
    SeedState,
    SystemStatePacket,
)
from esper.leyline import ids
from esper.tolaria.evaluation import Evaluation
from esper.tolaria.run import Run

LOSS_HISTORY: Final = 64
_GIB: Final = 1024**3


@dataclass(frozen=True, slots=True)
class Trained:
    """What an epoch of steps gave: the mean training loss, the last gradient norm, and how long it took."""

    loss: float
    gradient_norm: float
    duration_s: float


def epoch_packet(
    run: Run, packet_id: bytes, trained: Trained, evaluation: Evaluation, evidence: Sequence[SiteEvidence]
) -> EpochCompleted:
    """The packet of the epoch that was just completed; windows that it reports as closed are forgotten."""
    observations = run.kasmina.observations()
    recorder = run.recorder
    state = SystemStatePacket(
        version=1,
        current_epoch=recorder.epoch,
        validation_accuracy=evaluation.accuracy,
        validation_loss=evaluation.loss.mean,
        timestamp_ns=run.clock.wall_ns(),
        hardware_context=hardware(run.device),
        training_metrics={
            "gradient_norm": trained.gradient_norm,
            "samples_per_s": run.batch_size * run.steps_per_epoch / max(trained.duration_s, 1e-9),
        },
        seed_states=[_seed_state(run, seed) for seed in observations if seed.stage != SEED_LIFECYCLE_STAGE_DORMANT],
        packet_id=ids.text(packet_id),
        global_step=recorder.step,
        training_loss=trained.loss,
        source_subsystem="tolaria",
        training_run_id=recorder.run_id,
        experiment_name=run.task.name,
    )
    return EpochCompleted(
        state=state,
        seeds=observations,
        evidence=evidence,
        windows=run.windows.report(),
        probe_loss_history=run.probe_losses[-LOSS_HISTORY:],
        epochs_total=run.epochs,
        params=run.params,
        params_host=run.params_host,
        params_budget=round(run.config.growth_budget_factor * run.params_host),
        policy=run.config.policy,
        policy_seed=run.random.seeds["policy"],
        sites=run.sites,
        probe_loss_stderr=evaluation.loss.stderr,
        epochs_since_structural_change=run.epochs_since_structural_change,
        conservative=run.mode.on,
        duration_s=trained.duration_s,
        hook_ms_before=run.hook_ms[-1] if run.hook_ms else 0.0,
        flops=run.flops.total,
    )


def hardware(device: torch.device) -> HardwareContext:
    """What the run computes on; for a CPU the machine's memory, as much of it as the system tells."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        major, minor = torch.cuda.get_device_capability(device)
        return HardwareContext(
            device_type="cuda",
            device_id=str(device.index or 0),
            total_memory_gb=total / _GIB,
            available_memory_gb=free / _GIB,
            compute_capability=10 * major + minor,
        )
    page = os.sysconf("SC_PAGE_SIZE")
    return HardwareContext(
        device_type="cpu",
        total_memory_gb=page * os.sysconf("SC_PHYS_PAGES") / _GIB,
        available_memory_gb=page * os.sysconf("SC_AVPHYS_PAGES") / _GIB,
    )


def _seed_state(run: Run, seed: SeedObservation) -> SeedState:
    groups = {group["name"]: group["lr"] for group in run.optimizer.groups}
    depths = {site.seed_id: site.depth for site in run.sites}
    return SeedState(
        seed_id=seed.seed_id,
        stage=seed.stage,
        gradient_norm=seed.gradient_norm,
        learning_rate=groups.get(seed.seed_id, 0.0),
        layer_depth=depths[seed.seed_id],
        age_epochs=seed.stage_age_epochs,
    )

"""`nestmem train rl`: the model learns what to write and how to answer from what its memory is worth later."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nestmem.cli.evaluate import bar


def rl(
    out: Annotated[
        Path, typer.Option("--out", help="Folder of the run: config, log, checkpoint, report, curves, model.")
    ],
    model: Annotated[
        str, typer.Option("--model", help="What is trained: 'mini', a folder, or a Hugging Face name.")
    ] = "mini",
    rule: Annotated[str, typer.Option("--rule", help="How rollouts write: additive or rls.")] = "additive",
    steps: Annotated[int, typer.Option("--steps", help="Steps in all.")] = 100,
    minutes: Annotated[
        float,
        typer.Option(
            "--minutes", help="Stop sooner, after this many minutes with evaluations in all; 0: no limit."
        ),
    ] = 0.0,
    personas: Annotated[int, typer.Option("--personas", help="Personas in a step.")] = 4,
    group: Annotated[int, typer.Option("--group", help="Lives of each persona that are compared.")] = 8,
    sessions: Annotated[
        int, typer.Option("--sessions", help="Sessions of a life, each learned when it ends.")
    ] = 2,
    messages: Annotated[int, typer.Option("--messages", help="Messages in a session.")] = 4,
    passes: Annotated[int, typer.Option("--passes", help="Updates on each step's lives.")] = 1,
    rate: Annotated[float, typer.Option("--rate", help="Learning rate, after 3 steps of warm-up.")] = 1e-4,
    beta: Annotated[
        float,
        typer.Option(
            "--beta",
            help="Weight of the KL to the reference, the model as it was at every 50th step; 0: none.",
        ),
    ] = 0.02,
    temperature: Annotated[
        float, typer.Option("--temperature", help="At which lives are drawn; evaluations are greedy.")
    ] = 1.0,
    lora_rank: Annotated[
        int,
        typer.Option("--lora-rank", help="Rank of the LoRA trained; 0: all of the model's own parameters."),
    ] = 0,
    statements: Annotated[
        bool,
        typer.Option(
            "--statements/--no-statements",
            help="Lives also learn statement -> answer of a message with one pair, as the agent does.",
        ),
    ] = False,
    trust_region: Annotated[
        float,
        typer.Option(
            "--trust-region",
            help="In training, refuse writes that take the drift beyond this (nats per token of unrelated text).",
        ),
    ] = float("inf"),
    evaluate_every: Annotated[
        int, typer.Option("--evaluate-every", help="Steps between evaluations, and between checkpoints.")
    ] = 20,
    evaluation_personas: Annotated[
        int, typer.Option("--evaluation-personas", help="Held-out personas in an evaluation set.")
    ] = 24,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:0 ...")] = "cpu",
    dtype: Annotated[
        str, typer.Option("--dtype", help="float32; with a LoRA also bfloat16, float16.")
    ] = "float32",
    threads: Annotated[int, typer.Option("--threads", help="CPU threads.")] = 1,
    seed: Annotated[
        int, typer.Option("--seed", help="Seed of personas, of what is drawn and of a LoRA.")
    ] = 0,
) -> None:
    """Reinforcement learning of the writer and the answerer: GRPO over lives that own their fast weights."""
    from nestmem.train.rl import RLConfig, train_rl
    from nestmem.train.rollout import Sampling, StreamShape

    config = RLConfig(
        out=out,
        model=model,
        rule=rule,
        steps=steps,
        minutes=minutes,
        personas=personas,
        group=group,
        shape=StreamShape(sessions=sessions, messages=messages),
        sampling=Sampling(temperature=temperature),
        passes=passes,
        learning_rate=rate,
        beta=beta,
        lora_rank=lora_rank,
        statements=statements,
        trust_region=trust_region,
        evaluate_every=evaluate_every,
        evaluation_personas=evaluation_personas,
        device=device,
        dtype=dtype,
        threads=threads,
        seed=seed,
    )
    with bar() as progress:
        print(train_rl(config, on_progress=progress))

"""Passwords and keys as they are generated everywhere."""

import pulumi
import pulumi_random


def password(name: str, generation: float, parent: pulumi.Resource | None = None) -> pulumi.Output[str]:
    """Forty letters and digits, secret. Another generation makes another one; nothing else does."""
    made = pulumi_random.RandomPassword(
        name,
        length=40,
        special=False,
        keepers={"generation": str(int(generation))},
        opts=pulumi.ResourceOptions(parent=parent),
    )
    return pulumi.Output.secret(made.result)

"""What LPCAM's clusters are: their sizes, their scores, and which become prototypes."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from camflow.localize.prototypes import ClassPrototypes, SelectionParams, kept


def prototype_table(prototypes: Iterable[ClassPrototypes], params: SelectionParams) -> pd.DataFrame:
    """One row a cluster: columns ``class, side, cluster, members, score, kept, images, iterations``."""
    rows = []
    for one in prototypes:
        for side, clusters, chosen in zip(
            ("foreground", "context"), (one.foreground, one.context), kept(one, params), strict=True
        ):
            for number, (members, score) in enumerate(zip(clusters.members, clusters.score, strict=True)):
                rows.append(
                    {
                        "class": one.class_name, "side": side, "cluster": number, "members": int(members),
                        "score": float(score), "kept": bool(chosen[number]), "images": one.images,
                        "iterations": clusters.iterations,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows, columns=["class", "side", "cluster", "members", "score", "kept", "images", "iterations"])

"""How many components there are: our Dirichlet-process mixture against scikit-learn's on streams, a table in markdown.

`python -m bench.dpm` takes four minutes of CPU time, most of it scikit-learn's. A stream is six sets of points, each
drawn anew from as many Gaussians as `TRUE` says; the last has four of the seven before. Weights are unequal, the
largest five times the smallest. A mixture that is *warm* begins each fit where the last one ended, others are new.
Theirs has its default priors; its components count where they are likeliest for more than a hundredth of the points,
the share that ours need.
"""

import argparse
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import BayesianGaussianMixture

from preceptor.agent.dpm import DPMixture

TRUE = (3, 3, 5, 7, 7, 4)
DIMS, APART, UNEQUAL = 10, 4.5, 5.0  # dimensions; least distance of means, for deviations of about 1; weights

Floats = NDArray[np.float64]


def distant(rng: np.random.Generator, apart: float = APART) -> Floats:
    """Means and deviations of seven Gaussians, [7, 2, D]; no means are nearer to each other than that."""
    means = np.empty((0, DIMS))
    while len(means) < max(TRUE):
        mean = rng.normal(scale=0.3 * apart, size=DIMS)
        if (np.linalg.norm(means - mean, axis=1) >= apart).all():
            means = np.vstack((means, mean))
    return np.stack((means, rng.uniform(0.7, 1.3, means.shape)), 1)


def drawn(
    gaussians: Floats, which: Sequence[int], n: int, rng: np.random.Generator
) -> tuple[Floats, NDArray[np.int64]]:
    """Points [N, D] of some of the Gaussians, and of which each is, [N]."""
    weight = np.linspace(1, UNEQUAL, len(which))
    label = rng.choice(which, n, p=weight / weight.sum())
    mean, std = gaussians[label].swapaxes(0, 1)
    return mean + std * rng.normal(size=(n, DIMS)), label


def stream(n: int, rng: np.random.Generator) -> Iterator[tuple[Floats, NDArray[np.int64]]]:
    """One set of points and labels after another."""
    gaussians = distant(rng)
    for last, k in enumerate(TRUE, 1):
        yield drawn(gaussians, rng.permutation(7)[:k].tolist() if last == len(TRUE) else range(k), n, rng)


def sklearn_mixture(**settings: Any) -> BayesianGaussianMixture:
    """Theirs, with the components that its users would allow."""
    kind = "dirichlet_process"
    return BayesianGaussianMixture(
        n_components=15,
        covariance_type="diag",
        weight_concentration_prior_type=kind,
        max_iter=200,
        random_state=0,
        **settings,
    )


class Ours:
    """Ours as theirs is used."""

    def __init__(self) -> None:
        self.mixture = DPMixture(DIMS)

    def fit_predict(self, z: Floats) -> NDArray[np.int64]:
        """The likeliest component of each point after a fit to them."""
        self.mixture.fit(z, np.random.default_rng(0))
        return self.mixture.assign(torch.as_tensor(z)).numpy()


def measured(n: int, seed: int) -> Iterator[tuple[str, bool, float, float]]:
    """Of each mixture on each set: its name, whether K is right, adjusted Rand index, CPU seconds."""
    ours, theirs = Ours(), sklearn_mixture(warm_start=True)
    for true, (z, label) in zip(TRUE, stream(n, np.random.default_rng(seed)), strict=True):
        sides = {"ours, warm": ours, "ours, cold": Ours(), "scikit-learn, fresh": sklearn_mixture()}
        for name, mixture in (sides | {"scikit-learn, warm": theirs}).items():
            started = time.process_time()
            found = mixture.fit_predict(z)
            taken = time.process_time() - started
            large = int((np.bincount(found) > 0.01 * n).sum())
            yield name, large == true, adjusted_rand_score(label, found), taken


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, nargs="+", default=[2_000, 5_000, 20_000])
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    print("| N | mixture | K exact | ARI, mean | ARI, least | CPU s | of ours, warm |\n|---|---|---|---|---|---|---|")
    for n in args.points:
        figures: dict[str, list[tuple[bool, float, float]]] = {}
        for seed in range(args.seeds):
            for name, *figure in measured(n, seed):
                figures.setdefault(name, []).append(tuple(figure))  # type: ignore[arg-type]
        ours = np.mean([taken for _, _, taken in figures["ours, warm"]])
        for name, rows in figures.items():
            exact, index, taken = np.array(rows).T
            cells = f"{exact.sum():.0f} of {len(rows)} | {index.mean():.3f} | {index.min():.3f} | {taken.mean():.3f}"
            print(f"| {n:,} | {name} | {cells} | {taken.mean() / ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()

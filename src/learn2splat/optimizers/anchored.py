"""The learned rule `anchored`: the nominal rule times learned gains, plus a bounded correction.

    step = size * gain * (direction + correction) + decay

`size` and `direction` are those of `nominal.py`. A small network with attention among neighbouring Gaussians and a latent state reads the features
of `_features.py` and predicts, per Gaussian, a gain per parameter group and the coefficients of the correction:

    gain = exp(squash(y)), in [exp(-max_log_shrink), exp(max_log_growth)]
    correction = c tanh((sum over bases of coefficient * basis) / c), c = max_correction

The bases (`TERMS`) are vectors that transform like the parameter itself: this step's gradient, two momenta, the neighbours' direction, the way to the
neighbours' mean, and for log-scales and opacities constants. So weights are shared over axes and colour channels, the rule has no preferred axis, and
every parameter has its own correction. In units of `size` a step is at most exp(max_log_growth) * (5 + c); for means, a size is 0.04 local spacings.

The *magnitude path* is one linear layer from the logarithms of gradient-to-noise and of the age straight to the log-gains: a power law, with which
steps can shrink by themselves at the noise floor (the counterpart of the paper's state scale).

What pulls without a gradient fades with the age (`pull_age`): good for the first hundred steps, it would keep a run from the best place ever after.
Where views are many and close to each other, so that what fits them is right elsewhere too, late steps are those of `nominal` (`trust`).
Where they are few or far apart (`plenty`), what the photos do not insist on decays (`decay_anisotropy`, `decay_shN`): with each step, log-scales move
towards their mean, and colours towards being the same from everywhere. Else a run ends in needles and colours that fit those photos alone.

Beyond the ages that meta-training shows it (`trained_age`), what the network says is a guess: there steps also shrink as one over the age. Where
views are few they do so sooner (`few_age`), because from then on a run fits what is in those views alone.

The last layers start at zero: then gain = 1, correction = 0, and the rule takes the steps of `nominal` to the last bit.

Equivariance: permutation of the Gaussians (neighbour ties apart), translation, world scale inside nominal's clamps, relabelling of axes and of colour
channels: exact. Rotation: not, because Adam normalises per component and SH do not rotate per coefficient; meta-training rotates its scenes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import OptionError
from ..gaussians import knn
from ..gaussians.record import COLUMNS, FIELDS, Gaussians
from . import _native_step
from ._checks import require_finite
from ._features import (
    CORE,
    FEATURES,
    MAGNITUDE_FEATURES,
    NEIGHBOUR_FIELDS,
    NETWORK_FEATURES,
    NUM_GROUPS,
    NUM_RELATIONS,
    SLOW_BETA,
    Observed,
    Seen,
    observe,
    scarcity,
    wideness,
)
from ._moments import ADAM_EPS, clean_gradients, init_moments
from ._schedule import decay, settled_age, trust
from .attention import Block, seen_neighbours
from .base import OptState, Task, UpdateRule
from .nominal import NominalConfig, apply_update, expand_groups, group_step_sizes, nominal_direction, unknown_spacing

SEEN_BETA = 0.95  # of the running share of steps in which a Gaussian was seen

# What corrections are made of: basis -> the parameter groups that have a coefficient for it. shN has two of its own: for "raw" and for "momentum".
TERMS: dict[str, tuple[str, ...]] = {
    "raw": FIELDS[:-1],  # gradient / sqrt(vhat): momentum 0
    "momentum": FIELDS[:-1],  # the nominal direction: momentum 0.9
    "slow": FIELDS[:-1],  # momentum 0.99
    "neighbour_direction": NEIGHBOUR_FIELDS,
    "neighbour_offset": NEIGHBOUR_FIELDS,
    "constant": ("log_scales", "logit_opacities"),  # grow, shrink, fade
    "anisotropy": ("log_scales",),  # log-scales minus their mean: rounder, thinner
}
PULLS = ("neighbour_offset", "constant", "anisotropy")  # Pull also where the gradient is zero, and so move the place where a run comes to rest.
NUM_TERMS = 2 + sum(len(groups) for groups in TERMS.values())


@dataclass(frozen=True)
class AnchoredConfig:
    """Sizes and bounds of the rule. Saved with the weights."""

    width: int = 64
    latent: int = 32  # Numbers of latent state per Gaussian, each within [-1, 1].
    blocks: int = 1
    heads: int = 1
    head_dim: int = 16
    mlp_ratio: int = 2
    neighbours: int = 4  # Attended to, the Gaussian itself included.
    magnitude: bool = True  # Whether there is a magnitude path.
    max_log_growth: float = 2.0  # Gains stay below exp of this: 7.4.
    max_log_shrink: float = 5.0  # Gains stay above exp of minus this: 0.0067.
    max_correction: float = 5.0  # In units of the direction, whose bound is 5 too.
    trained_age: float = 1e9  # Steps: a Gaussian that was seen more often takes its steps times trained_age / count.
    few_age: float = 1e9  # Steps: trained_age where views are few, if less; between few and many, a geometric mean.
    pull_age: float = 1e9  # Steps: coefficients of `PULLS` are divided by 1 + count / pull_age, so that in the end the gradient alone decides.
    trust_age: float = 1e9  # Steps: of a Gaussian that was seen so often the network decides by half where views are many and close (`trust`).
    decay_anisotropy: float = 0.0  # Share that the log-scales of a Gaussian lose with each step of their distance from their mean, ...
    decay_shN: float = 0.0  # ... and share that shN loses, where views are few or far apart.
    held_steps: int = 0  # Steps for which what the network said is held before it is asked again, ...
    held_from: int = 10_000  # ... where there are so many Gaussians; with fewer, rendering costs more than the network.
    features: tuple[str, ...] = NETWORK_FEATURES  # What the network reads; shorten it to ablate.
    nominal: NominalConfig = field(default_factory=NominalConfig)

    def __post_init__(self) -> None:
        require_finite(self)
        unknown = [name for name in self.features if name not in FEATURES]
        if unknown:
            raise OptionError(f"unknown features {unknown}: choose from {', '.join(FEATURES)}")
        if min(self.width, self.latent, self.heads, self.head_dim, self.mlp_ratio, self.neighbours) < 1 or self.blocks < 0:
            raise OptionError(f"the anchored network needs positive sizes, got {self}")
        if min(self.max_log_growth, self.max_log_shrink, self.max_correction, self.trained_age, self.few_age, self.pull_age, self.trust_age) <= 0:
            raise OptionError(f"the bounds of the anchored rule must be above 0, got {self}")
        if self.held_steps < 0 or self.held_from < 1:
            raise OptionError(f"the anchored rule needs held_steps of 0 or more and held_from of 1 or more, got {self}")
        if not (0 <= self.decay_anisotropy < 1 and 0 <= self.decay_shN < 1):
            raise OptionError(f"the decays of the anchored rule must be within [0, 1), got {self}")


class AnchoredNetwork(nn.Module):
    """From features to log-gains (before squashing), coefficients and the new latent state."""

    def __init__(self, config: AnchoredConfig) -> None:
        super().__init__()
        read = sum(FEATURES[name] for name in config.features)
        noise = sum(FEATURES[name] for name in MAGNITUDE_FEATURES)
        width = config.width
        self.own = nn.Linear(read + config.latent, width)
        self.overall = nn.Linear(read + 3, width, bias=False)  # means of the features over the seen Gaussians, and `run` of `forward`
        self.relation = nn.Linear(NUM_RELATIONS, config.heads, bias=False)
        self.blocks = nn.ModuleList(Block(width, config.head_dim, config.heads, config.mlp_ratio * width, F.relu) for _ in range(config.blocks))
        self.memory = nn.Linear(width, 2 * config.latent)  # gate, candidate
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, NUM_GROUPS + NUM_TERMS))
        self.magnitude = nn.Linear(2 * noise, NUM_GROUPS, bias=False) if config.magnitude else None  # own features and their means
        nn.init.zeros_(self.head[2].weight)
        nn.init.zeros_(self.head[2].bias)
        if self.magnitude is not None:
            nn.init.zeros_(self.magnitude.weight)

    def forward(
        self, features: Tensor, noise: Tensor, run: tuple[float, float, float], latent: Tensor, relations: Tensor, neighbours: Tensor, exists: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """features (n, F), noise (n, Z), latent (n, L), relations (n, k, R), neighbours and exists (n, k).

        `run`: the share of all Gaussians that are seen in this step, and how few and how far apart the views are (`scarcity`, `wideness`).

        Returns log-gains (n, 6), coefficients (n, NUM_TERMS), latent (n, L).
        """
        overall = torch.cat([features.mean(0), features.new_tensor(run)])
        u = self.own(torch.cat([features, latent], dim=1)) + self.overall(overall)
        bias = self.relation(relations)
        for block in self.blocks:
            u = block(u, neighbours, exists, bias)
        gate, candidate = self.memory(u).chunk(2, dim=1)
        # A convex step towards a bounded candidate: the latent state cannot grow, however long the run.
        latent = torch.lerp(latent, torch.tanh(candidate), torch.sigmoid(gate))
        log_gains, coefficients = self.head(u).split([NUM_GROUPS, NUM_TERMS], dim=1)
        if self.magnitude is None:
            return log_gains, coefficients, latent
        noise_width = noise.shape[1]
        magnitude = noise @ self.magnitude.weight[:, :noise_width].T + self.magnitude.weight[:, noise_width:] @ noise.mean(0)
        return log_gains + magnitude, coefficients, latent


class Anchored(UpdateRule):
    """The rule of this module. State: nominal's, `neighbours` (N, 9) and what `fresh` lists."""

    name = "anchored"
    architecture = "anchored"
    zero_when_grown = frozenset({"m", "v", "slow"})
    measured = frozenset({"spacing"})  # NaN: the next step measures all of them, and lists the neighbours anew

    def __init__(self, config: AnchoredConfig | None = None, *, network: AnchoredNetwork | None = None, seed: int = 0) -> None:
        """`network`: trained weights for this `config`; by default untrained ones drawn from `seed`, with which the rule is `nominal`."""
        self.config = config or AnchoredConfig()
        if network is None:
            with torch.random.fork_rng(devices=[]):  # torch's initialisers take no generator: borrow the global one and put it back
                torch.manual_seed(seed)
                network = AnchoredNetwork(self.config)
        self.network = network

    @property
    def num_candidates(self) -> int:
        """Columns of the neighbour lists: the neighbours that measure the spacing, and the Gaussian itself."""
        return self.config.nominal.neighbours + 1

    def init(self, gaussians: Gaussians, task: Task, generator: torch.Generator) -> OptState:
        means = gaussians.means
        n, device = len(means), means.device
        tensors = {
            **init_moments(gaussians),
            "spacing": unknown_spacing(means),
            "neighbours": torch.arange(n, device=device).unsqueeze(1).repeat(1, self.num_candidates),
            "latent": torch.zeros(n, self.config.latent, dtype=self.network.own.weight.dtype, device=device),
            "said": torch.zeros(n, NUM_GROUPS + NUM_TERMS, dtype=self.network.own.weight.dtype, device=device),
            "slow": means.new_zeros(n, CORE),
            "running": means.new_zeros(n, NUM_GROUPS),
            "seen_rate": means.new_ones(n),
            "last_seen": torch.full((n,), -1, dtype=torch.int32, device=device),  # -1: not yet
        }
        return OptState(tensors, task=task, index_tensors=frozenset({"neighbours"}))

    def fresh_rows(self, name: str, like: Tensor, count: int, generator: torch.Generator) -> Tensor:
        rows = super().fresh_rows(name, like, count, generator)
        return rows.fill_({"spacing": torch.nan, "last_seen": -1, "seen_rate": 1.0}[name]) if name in ("spacing", "last_seen", "seen_rate") else rows

    def step(self, gaussians: Gaussians, grads: Gaussians, state: OptState) -> tuple[Gaussians, OptState]:
        with torch.no_grad():
            if not _native_step.applies(gaussians, grads, state.tensors, self.network.parameters()):
                return self.update(gaussians, grads, state)
            spacing, neighbours = self._refreshed(gaussians.means, state)
            speaks = self._speaks(state)
            new, tensors = _native_step.anchored_step(gaussians, grads, state, spacing, neighbours, self.config, self.network, speaks=speaks)
            return new, replace(state, tensors={**tensors, "spacing": spacing, "neighbours": neighbours}, step=state.step + 1)

    def update(self, gaussians: Gaussians, grads: Gaussians, state: OptState, theta: dict[str, Tensor] | None = None) -> tuple[Gaussians, OptState]:
        """The step as a pure function, differentiable in the weights, the latent state and the Gaussians; `grads` enter as constants.

        `theta`: weights by name that replace those of `self.network`, as in `torch.func.functional_call`.
        """
        if self.network.own.weight.device != gaussians.means.device:
            self.network.to(gaussians.means.device)  # the weights follow the Gaussians
        fixed = theta is None and not any(tensor.requires_grad for tensor in gaussians.tensors().values())
        if fixed and _native_step.applies(gaussians, grads, state.tensors, self.network.parameters()):
            return self._update_around_network(gaussians, grads, state)
        config, old = self.config, state.tensors
        flat, (flat_grads, seen) = gaussians.flatten(), clean_gradients(grads.detach())
        direction, tensors = nominal_direction(flat_grads, seen, old, config.nominal)
        tensors["spacing"], tensors["neighbours"] = self._refreshed(gaussians.means, state)
        sizes = group_step_sizes(tensors["spacing"], config.nominal)
        new_state = replace(state, tensors=tensors, step=state.step + 1)
        rows = torch.nonzero(seen).squeeze(1)
        if len(rows) == 0:
            tensors.update({name: old[name].clone() for name in ("latent", "said", "slow", "running", "seen_rate", "last_seen")})
            return gaussians.clone(), new_state

        everyone = len(rows) == len(seen)

        def take(tensor: Tensor) -> Tensor:
            return tensor if everyone else tensor[rows]

        def put(tensor: Tensor, values: Tensor) -> Tensor:
            return values if everyone else tensor.index_copy(0, rows, values)

        count = take(tensors["count"]).to(flat.dtype)
        grad = take(flat_grads)
        last_seen = take(old["last_seen"])
        fading = take(old["seen_rate"]) * SEEN_BETA ** (state.step - last_seen)  # over the steps in which it was not seen
        neighbours, exists = seen_neighbours(tensors["neighbours"], seen, config.neighbours)
        known = Seen(
            flat=take(flat),
            grad=grad,
            direction=take(direction),
            root=take(tensors["v"]).sqrt().mul_((1 - config.nominal.beta2**count).rsqrt().unsqueeze(1)).add_(ADAM_EPS),
            slow=take(old["slow"]).lerp(grad[:, :CORE], 1 - SLOW_BETA),
            count=count,
            running=take(old["running"]),
            seen_rate=torch.where(last_seen < 0, 1.0, fading + (1 - SEEN_BETA)),
            spacing=take(tensors["spacing"]),
            neighbours=neighbours,
            exists=exists,
        )
        observed = observe(known)
        latent, said = take(old["latent"]), take(old["said"])
        inputs = (
            torch.cat([observed.features[name] for name in config.features], dim=1).to(latent.dtype),
            torch.cat([observed.features[name] for name in MAGNITUDE_FEATURES], dim=1).to(latent.dtype),
            (len(rows) / len(seen), scarcity(state.task.num_views), wideness(state.task.view_angle)),
            latent,
            observed.relations.to(latent.dtype),
            neighbours,
            exists,
        )
        if self._speaks(state):
            log_gains, coefficients, latent = self.network(*inputs) if theta is None else torch.func.functional_call(self.network, theta, inputs)
            said = torch.cat([log_gains, coefficients], dim=1)
        log_gains, coefficients = said.split([NUM_GROUPS, NUM_TERMS], dim=1)
        believed = trust(count, state.task, config.trust_age).unsqueeze(1)
        gains = torch.exp(squash(log_gains, config.max_log_shrink, config.max_log_growth).to(flat.dtype) * believed)
        late = (settled_age(state.task, config) / count).clamp_max(1.0).unsqueeze(1)
        correction = make_correction(known, observed, coefficients.to(flat.dtype) * believed, config.max_correction, config.pull_age)
        delta = (known.direction + correction) * expand_groups(take(sizes) * gains * late) + decay(known.flat, state.task, config) * late
        delta = put(torch.zeros_like(flat), delta)

        for name, values in {"latent": latent, "said": said, "slow": known.slow, "running": observed.running, "seen_rate": known.seen_rate}.items():
            tensors[name] = put(old[name], values)
        tensors["last_seen"] = torch.where(seen, state.step, old["last_seen"])
        return apply_update(flat, delta, seen), new_state

    def _update_around_network(self, gaussians: Gaussians, grads: Gaussians, state: OptState) -> tuple[Gaussians, OptState]:
        """`update` where the Gaussians are constants: all but the network is native, and the step has a graph to the weights and the latent state."""
        spacing, candidates = self._refreshed(gaussians.means, state)
        ends = _native_step.step_ends(gaussians, grads, state, spacing, candidates, self.config)
        new, latent, said, rows = ends.new, state.tensors["latent"], state.tensors["said"], ends.rows
        if len(rows):
            run = (len(rows) / len(gaussians), scarcity(state.task.num_views), wideness(state.task.view_angle))
            everyone = len(rows) == len(gaussians)
            own, outputs = (latent, said) if everyone else (latent[rows], said[rows])
            if self._speaks(state):
                log_gains, coefficients, own = self.network(ends.features, ends.noise, run, own, ends.relations, ends.neighbours, ends.exists)
                outputs = torch.cat([log_gains, coefficients], dim=1)
                latent, said = (own, outputs) if everyone else (latent.index_copy(0, rows, own), said.index_copy(0, rows, outputs))
            new = ends.finish(outputs)
        else:
            latent, said = latent.clone(), said.clone()
        tensors = {**ends.tensors, "spacing": spacing, "neighbours": candidates, "latent": latent, "said": said}
        return new, replace(state, tensors=tensors, step=state.step + 1)

    def _speaks(self, state: OptState) -> bool:
        """Whether the network is asked in this step: where there are new Gaussians, always."""
        spacing, config = state.tensors["spacing"], self.config
        return len(spacing) < config.held_from or state.step % (1 + config.held_steps) == 0 or bool(spacing.sum().isnan())

    def _refreshed(self, means: Tensor, state: OptState) -> tuple[Tensor, Tensor]:
        """Spacing and neighbour lists, on the schedule of `nominal.refreshed_spacing` and with its values."""
        spacing, config = state.tensors["spacing"], self.config.nominal
        if state.step % config.refresh_every != 0 and not bool(spacing.sum().isnan()):
            return spacing.clone(), state.tensors["neighbours"].clone()
        indices, distances = knn(means, self.num_candidates)
        others = min(config.neighbours, len(means) - 1)
        return (distances[:, 1 : 1 + others].mean(1) if others > 0 else torch.zeros_like(distances[:, 0])), indices


def squash(x: Tensor, low: float, high: float) -> Tensor:
    """Smooth map of the reals onto (-low, high) with squash(0) = 0 and slope 1 there."""
    limit = torch.where(x > 0, high, low)
    return limit * torch.tanh(x / limit)


def make_correction(s: Seen, observed: Observed, coefficients: Tensor, bound: float, pull_age: float) -> Tensor:
    """The correction (n, 59), each number within +-bound, from `coefficients` (n, NUM_TERMS)."""
    log_scales = s.flat[:, COLUMNS["log_scales"]]
    bases = {
        "raw": observed.raw[:, :CORE],
        "momentum": s.direction[:, :CORE],
        "slow": observed.slow,
        "neighbour_direction": observed.neighbour_direction,
        "neighbour_offset": observed.neighbour_offset,
        "anisotropy": F.pad(log_scales - log_scales.mean(1, keepdim=True), (COLUMNS["log_scales"].start, CORE - COLUMNS["log_scales"].stop)),
    }
    factors = dict(zip(TERMS, (coefficients[:, 2:] @ _TERM_COLUMNS.to(coefficients)).split(CORE, dim=1)))
    fading = (1 / (1 + s.count / pull_age)).unsqueeze(1)
    factors |= {name: factors[name] * fading for name in PULLS}
    core = factors["constant"]
    for name, basis in bases.items():
        core = torch.addcmul(core, basis, factors[name])
    sh = observed.raw[:, CORE:] * coefficients[:, 0:1] + s.direction[:, CORE:] * coefficients[:, 1:2]
    return bound * torch.tanh(torch.cat([core, sh], dim=1) / bound)


def _term_columns() -> Tensor:
    """(NUM_TERMS - 2, 14 len(TERMS)) 0/1 matrix: which coefficient goes with which basis and column. A product with it beats an indexed copy."""
    pairs = [(i, group) for i, groups in enumerate(TERMS.values()) for group in groups]
    matrix = torch.zeros(len(pairs), CORE * len(TERMS))
    for row, (i, group) in enumerate(pairs):
        columns = COLUMNS[group]
        matrix[row, i * CORE + columns.start : i * CORE + columns.stop] = 1
    return matrix


_TERM_COLUMNS = _term_columns()

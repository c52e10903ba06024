"""The decoder once more, as the papers write it: NumPy in float64, one sequence and one head at a time.

The oracle of the contract tests. It reads a ModelConfig and a parameter tree and shares no code with the model; where
the two differ, read this one beside the papers. Speed is no concern.

Shapes: B batch, T position (S where it is a key's), D model width, F feed-forward width, H query heads, K key/value
heads, C head channels, R = C / 2, V vocabulary without padding.
"""

import numpy as np


def decoder(cfg, params, tokens_BT, positions_BT=None, segment_ids_BT=None, ahead=0):
    """Returns logits_BTV of the real vocabulary, for the token `ahead` places after the next.

    Positions default to 0..T-1, segments to one a row.
    """
    cfg, params = cfg.resolve(), tree_map(lambda x: np.asarray(x, np.float64), params)
    B, T = tokens_BT.shape
    positions_BT = np.tile(np.arange(T), (B, 1)) if positions_BT is None else np.asarray(positions_BT)
    segment_ids_BT = np.ones((B, T)) if segment_ids_BT is None else np.asarray(segment_ids_BT)
    rows = zip(np.asarray(tokens_BT), positions_BT, segment_ids_BT, strict=True)
    return np.stack([sequence(cfg, params, *row, ahead) for row in rows])


def sequence(cfg, params, tokens_T, positions_T, segment_ids_T, ahead):
    """Returns logits_TV of one row: embed, mix and widen num_layers times, read out."""
    x_TD = cfg.embedding_scale * params["tokens"]["embedding"][tokens_T] + added_positions(cfg, params, positions_T)
    for n in range(cfg.num_layers):
        block = tree_map(lambda x_N, n=n: x_N[n], params["blocks"])
        if cfg.block.name != "transformer":
            x_TD = recurrent(cfg, block, x_TD, segment_ids_T)
            continue
        bias_HTS = distance_bias(cfg, params, len(tokens_T))
        arguments = positions_T, segment_ids_T, bias_HTS, n
        mix = lambda x_TD, p=block["attention"], more=arguments: attention(cfg, p, x_TD, *more)  # noqa: E731
        widen = lambda x_TD, p=block["mlp"]: feed_forward(cfg, p, x_TD)  # noqa: E731
        for sub_layer, name in ((mix, "attention"), (widen, "mlp")):
            if cfg.norm_placement == "post":
                x_TD = norm(cfg, block[f"{name}_norm"], x_TD + cfg.residual_scale * sub_layer(x_TD))
                continue
            y_TD = sub_layer(norm(cfg, block[f"{name}_norm"], x_TD))
            if cfg.norm_placement == "sandwich":
                y_TD = norm(cfg, block[f"{name}_output_norm"], y_TD)
            x_TD = x_TD + cfg.residual_scale * y_TD
    if cfg.norm_placement != "post" and (cfg.block.name == "transformer" or cfg.block.kwargs["residual"]):
        x_TD = norm(cfg, params["final_norm"], x_TD)
    if ahead:  # a residual layer for each place (arXiv 2401.10774)
        p = params["head"][f"ahead_{ahead}"]
        y_TD = norm(cfg, params["head"][f"ahead_{ahead}_norm"], x_TD)
        x_TD = x_TD + silu(y_TD @ p["kernel"] + bias(p))
    kernel_DV = params["tokens"]["embedding"].T if cfg.tie_embeddings else params["head"]["kernel"]
    widened = cfg.d_model / cfg.mup_base_width if cfg.mup_base_width else 1  # arXiv 2203.03466
    return cfg.logit_scale / widened * x_TD @ kernel_DV[:, : cfg.vocab_size]


def attention(cfg, p, x_TD, positions_T, segment_ids_T, bias_HTS, n):
    """The sum over heads h of softmax(q_h k_h' / sqrt C) v_h W_h (Vaswani et al. 2017, section 3.2).

    Head h reads key/value head h // (H / K) (arXiv 2305.13245); queries and keys are normalised (arXiv 2010.04245) and
    then turned (arXiv 2104.09864) where the config says so; a query sees no later key, unless attention is
    bidirectional, none of another segment, and none `window` or more places away (arXiv 2004.05150). n counts the
    blocks.
    """
    defaults = {
        "causal": {"window": None},
        "bidirectional": {"window": None},
        "alternating": {"window": 128, "pattern": "LG"},
        "gpt3": {"window": 256, "pattern": "GL"},
        "differential": {"window": None},
    }
    options = {"qk_norm": False, "soft_cap": None, "sink": False, "pattern": "L"}
    options |= defaults[cfg.attention.name] | dict(cfg.attention.kwargs)
    T, C = len(x_TD), cfg.d_head
    window = options["window"] if options["pattern"][n % len(options["pattern"])] == "L" else None
    y_TD = np.zeros_like(x_TD)
    for h in range(cfg.num_heads):
        k = h // (cfg.num_heads // cfg.num_kv_heads)
        q_TC = x_TD @ p["query"]["kernel"][:, h] + bias(p["query"], h)
        k_SC = x_TD @ p["key"]["kernel"][:, k] + bias(p["key"], k)
        v_SC = x_TD @ p["value"]["kernel"][:, k] + bias(p["value"], k)
        if options["qk_norm"]:
            epsilon = cfg.norm.kwargs.get("epsilon", 1e-5)
            q_TC = rms_norm(q_TC, p["query_norm"]["scale"], epsilon)
            k_SC = rms_norm(k_SC, p["key_norm"]["scale"], epsilon)
        if cfg.positions.name == "rotary":
            q_TC, k_SC = rotate(cfg, q_TC, positions_T), rotate(cfg, k_SC, positions_T)
        hidden_TS = np.zeros((T, T), bool)
        for t in range(T):
            for s in range(T):
                near = window is None or abs(t - s) < window
                ahead = s > t and cfg.attention.name != "bidirectional"
                hidden_TS[t, s] = ahead or segment_ids_T[s] != segment_ids_T[t] or not near

        def weights(q_TC, k_SC, h=h, hidden_TS=hidden_TS):
            scale = 1 / np.sqrt(q_TC.shape[1]) if cfg.mup_base_width is None else 8 / q_TC.shape[1]
            scores_TS = q_TC @ k_SC.T * (cfg.attention_scale or scale)
            if options["soft_cap"] is not None:
                scores_TS = options["soft_cap"] * np.tanh(scores_TS / options["soft_cap"])
            scores_TS = np.where(hidden_TS, -np.inf, scores_TS + bias_HTS[h])
            if options["sink"]:
                scores_TS = np.concatenate([scores_TS, np.full((T, 1), p["sink"]["bias"][h])], axis=1)
            return softmax(scores_TS)[:, :T]

        if cfg.attention.name == "differential":
            # two heads of every second pair of channels; the pair (i, i + C/2) is what rotary positions turn
            first = [c for c in range(C) if c % (C // 2) % 2 == 0]
            second = [c for c in range(C) if c % (C // 2) % 2 == 1]
            start = 0.8 - 0.6 * np.exp(-0.3 * n)
            products = [p[f"lambda_query_{i}"]["bias"] @ p[f"lambda_key_{i}"]["bias"] for i in (1, 2)]
            lambda_ = np.exp(products[0]) - np.exp(products[1]) + start
            again_TS = weights(q_TC[:, second], k_SC[:, second])
            mixed_TC = (weights(q_TC[:, first], k_SC[:, first]) - lambda_ * again_TS) @ v_SC
            mixed_TC = (1 - start) * rms_norm(mixed_TC, p["head_norm"]["scale"])
        else:
            mixed_TC = weights(q_TC, k_SC) @ v_SC
        y_TD += mixed_TC @ p["output"]["kernel"][h]
    return y_TD + bias(p["output"])


def recurrent(cfg, p, x_TD, segment_ids_T):
    """Steps through each segment on its own, from a state of zeros; where `residual`, reads a norm and adds to x."""
    step, num_gates = {"lstm": (lstm, 4), "gru": (gru, 3)}[cfg.block.name]
    y_TD = norm(cfg, p["norm"], x_TD) if cfg.block.kwargs["residual"] else x_TD
    out_TD = np.zeros_like(x_TD)
    for segment in set(segment_ids_T.tolist()):
        h_H = c_H = np.zeros(cfg.block.kwargs["d_hidden"] or cfg.d_model)
        for t in np.flatnonzero(segment_ids_T == segment):
            if segment == 0:  # each token of padding stands alone
                h_H = c_H = np.zeros_like(h_H)
            x_GH = [y_TD[t] @ p["input"]["kernel"][:, g] + bias(p, g) for g in range(num_gates)]
            u_GH = [h_H @ p["state"]["kernel"][:, g] for g in range(num_gates)]
            h_H, c_H = step(x_GH, u_GH, h_H, c_H)
            out_TD[t] = h_H @ p["output"]["kernel"] if "output" in p else h_H
    return x_TD + cfg.residual_scale * out_TD if cfg.block.kwargs["residual"] else out_TD


def lstm(x_GH, u_GH, h_H, c_H):
    """c = f c + i g and h = o tanh(c) (Gers et al. 2000, without peepholes)."""
    i_H, f_H, o_H = (sigmoid(x_GH[gate] + u_GH[gate]) for gate in (0, 1, 3))
    c_H = f_H * c_H + i_H * np.tanh(x_GH[2] + u_GH[2])
    return o_H * np.tanh(c_H), c_H


def gru(x_GH, u_GH, h_H, c_H):
    """h = z h + (1 - z) tanh(W x + r * U h) (Cho et al. 2014, arXiv 1406.1078v1); there is no c."""
    r_H, z_H = (sigmoid(x_GH[gate] + u_GH[gate]) for gate in (0, 1))
    return z_H * h_H + (1 - z_H) * np.tanh(x_GH[2] + r_H * u_GH[2]), c_H


def sigmoid(x_H):
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x_H))


def distance_bias(cfg, params, T):
    """Returns what is added to the scores of each head: slopes (arXiv 2108.12409), T5's numbers (1910.10683), or 0."""
    H, options = cfg.num_heads, dict(cfg.positions.kwargs)
    bias_HTS = np.zeros((H, T, T))
    for t in range(T):
        for s in range(t + 1):
            if cfg.positions.name == "alibi":
                assert H & (H - 1) == 0
                bias_HTS[:, t, s] = [-(2.0 ** (-8 * (h + 1) / H)) * (t - s) for h in range(H)]
            elif cfg.positions.name == "t5":
                buckets, farthest = options.get("num_buckets", 32), options.get("max_distance", 128)
                bucket, exact = t - s, buckets // 2
                if bucket >= exact:
                    share = np.log((t - s) / exact) / np.log(farthest / exact)
                    bucket = min(buckets - 1, exact + int(share * (buckets - exact)))
                bias_HTS[:, t, s] = params["positions"]["embedding"][bucket]
    return bias_HTS


def softmax(x_TS):
    """exp x over its sum, shifted so that the largest exponent is 0."""
    weights_TS = np.exp(x_TS - x_TS.max(axis=-1, keepdims=True))
    return weights_TS / weights_TS.sum(axis=-1, keepdims=True)


def rotate(cfg, x_TC, positions_T):
    """Turns the pair (x_i, x_{i+R}), read as a complex number, by the angle p base^(-i/R) (arXiv 2104.09864).

    Longer contexts: positions divided by s (arXiv 2306.15595), or a larger base, or each pair by how often it turns
    within the trained length (arXiv 2309.00071, sections 3.1 and 3.2), with scores a little larger.
    """
    options = {"base": 10000.0, "fraction": 1.0, "scaling": "none", "factor": 1.0} | dict(cfg.positions.kwargs)
    base, s, R = options["base"], options["factor"], int(cfg.d_head * options["fraction"]) // 2
    size = 1.0
    if options["scaling"] == "ntk":
        base = base * s ** (2 * R / (2 * R - 2))
    angle_R = base ** (-np.arange(R) / R)
    if options["scaling"] == "linear":
        angle_R = angle_R / s
    if options["scaling"] == "yarn":
        size = 0.1 * np.log(s) + 1
        for i in range(R):
            wavelength = 2 * np.pi / angle_R[i]
            ramp = min(1, max(0, (options["trained_len"] / wavelength - 1) / 31))
            angle_R[i] = (1 - ramp) * angle_R[i] / s + ramp * angle_R[i]
    turned_TR = size * (x_TC[:, :R] + 1j * x_TC[:, R : 2 * R]) * np.exp(1j * np.outer(positions_T, angle_R))
    return np.concatenate([turned_TR.real, turned_TR.imag, x_TC[:, 2 * R :]], axis=-1)


def added_positions(cfg, params, positions_T):
    """Returns what is added to the embeddings: a learned row, sines and cosines (Vaswani, section 3.5), or 0."""
    if cfg.positions.name == "learned":
        return params["positions"]["table"]["embedding"][positions_T]
    if cfg.positions.name == "sinusoidal":
        base = cfg.positions.kwargs.get("base", 10000.0)
        added_TD = np.zeros((len(positions_T), cfg.d_model))
        for d in range(cfg.d_model):
            angle_T = positions_T / base ** (2 * (d // 2) / cfg.d_model)
            added_TD[:, d] = np.sin(angle_T) if d % 2 == 0 else np.cos(angle_T)
        return added_TD
    assert cfg.positions.name in ("rotary", "alibi", "t5", "none"), cfg.positions
    return 0.0


def feed_forward(cfg, p, x_TD):
    """W_down f(W_up x), or W_down (f(W_gate x) * W_up x) (arXiv 2002.05202)."""
    if cfg.mlp.name == "moe":
        return np.stack([experts(cfg, p, x_D) for x_D in x_TD])
    up_TF = x_TD @ p["up"]["kernel"] + bias(p["up"])
    if cfg.mlp.name in ("swiglu", "geglu"):
        gate_TF = x_TD @ p["gate"]["kernel"] + bias(p["gate"])
        hidden_TF = (silu(gate_TF) if cfg.mlp.name == "swiglu" else gelu(gate_TF)) * up_TF
    elif cfg.mlp.name == "gelu":
        hidden_TF = gelu(up_TF)
    else:
        assert cfg.mlp.name in ("relu", "relu2"), cfg.mlp
        hidden_TF = np.maximum(0, up_TF) ** (2 if cfg.mlp.name == "relu2" else 1)
    return hidden_TF @ p["down"]["kernel"] + bias(p["down"])


def experts(cfg, p, x_D):
    """The likeliest experts' results for a token, mixed by their probabilities among themselves (arXiv 2401.04088).

    A shared expert is added.
    """
    options = {"top_k": 2, "num_shared": 0} | dict(cfg.mlp.kwargs)
    score_E = x_D @ p["router"]["kernel"]
    chosen = np.argsort(-score_E)[: options["top_k"]]
    weights = np.exp(score_E[chosen]) / np.exp(score_E[chosen]).sum()

    def expert(p, e):
        gate, up, down = (p[name]["kernel"][e] for name in ("gate", "up", "down"))
        return (silu(x_D @ gate) * (x_D @ up)) @ down

    y_D = sum(weight * expert(p["experts"], e) for weight, e in zip(weights, chosen, strict=True))
    return y_D + (expert(p["shared"], 0) if options["num_shared"] else 0)


def silu(x):
    """x sigmoid(x)."""
    return x / (1 + np.exp(-x))


def gelu(x):
    """x times the normal distribution function, in the tanh form (arXiv 1606.08415)."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def norm(cfg, p, x_TD):
    """Layer normalisation (arXiv 1607.06450) or that of the root mean square (arXiv 1910.07467)."""
    epsilon = cfg.norm.kwargs.get("epsilon", 1e-5)
    if cfg.norm.name == "rmsnorm":
        return rms_norm(x_TD, p["scale"], epsilon)
    assert cfg.norm.name == "layernorm", cfg.norm
    x_TD = x_TD - x_TD.mean(axis=-1, keepdims=True)
    y_TD = x_TD / np.sqrt((x_TD**2).mean(axis=-1, keepdims=True) + epsilon) * p["scale"]
    return y_TD + p["bias"] if cfg.norm.kwargs.get("use_bias", True) else y_TD


def rms_norm(x_TC, scale_C, epsilon=1e-5):
    """x over its root mean square, scaled."""
    return x_TC / np.sqrt((x_TC**2).mean(axis=-1, keepdims=True) + epsilon) * scale_C


def bias(p, index=...):
    """Returns (a head's part of) the bias, 0 where the projection has none."""
    return p["bias"][index] if "bias" in p else 0.0


def tree_map(function, tree):
    """Applies the function to every array of a nested dict."""
    return {k: tree_map(function, v) if isinstance(v, dict) else function(v) for k, v in tree.items()}

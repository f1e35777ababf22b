"""Is `lstsq` the fastest differentiable least-squares layer at a given error?

    python benchmarks/lstsq.py dense --rows 10000 --columns 1000
    python benchmarks/lstsq.py dense --x64 --conditions 10 1e3 1e6
    python benchmarks/lstsq.py block | sparse | convolution | second | memory

Peers run in the same process: matfree, lineax (LSMR, QR, normal CG), jaxopt (implicit normal CG),
jnp.linalg.lstsq, and plain automatic differentiation through matfree's loop at its own number of
iterations ("unrolled"). Missing packages are left out and named.

Every iterative method gets the same tolerance (--rtol, 1e-6 in float32 and 1e-10 in float64). As
each measures its own norm of A the answers differ in error, so a second line of gplsq asks for the
largest tolerance whose value and gradient are at least as accurate as the best peer's LSMR ("at
equal error"). Errors are relative, against a float64 solve; the loss is <g, x> with a random g.

Not measured: GPUs, multi-socket machines, matrices that do not fit into memory.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from _harness import environment, print_table, progress
from _lstsq_methods import HAS, MAX_STEPS, Method, ours, peers, problem, reference, unrolled

from gplsq import LSMR, lstsq
from gplsq.operators import Function
from gplsq.solvers import CholeskyQR, Sketch


def measure(fn: Callable, arguments: tuple, repeat: int):
    """Compile seconds, median seconds, temporaries in MB, and the result."""
    start = time.perf_counter()
    compiled = jax.jit(fn).lower(*arguments).compile()
    compile_s = time.perf_counter() - start
    out = jax.block_until_ready(compiled(*arguments))
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        out = jax.block_until_ready(compiled(*arguments))
        times.append(time.perf_counter() - start)
    analysis = compiled.memory_analysis()
    megabytes = analysis.temp_size_in_bytes / 1e6 if analysis is not None else float("nan")
    return compile_s, float(np.median(times)), megabytes, out


def relative(a, b) -> float:
    return float(np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b))


def wanted(name, options):
    """Whether `--only` asks for this line."""
    return not options.only or any(word in name for word in options.only)


def record(name, method, A, b, g, truth, repeat):
    """One line of the table, with its two errors and two times for later."""
    progress(f"  ... {name}")

    def loss(A, b):
        return jnp.vdot(g, method.solve(A, b))

    compile_f, forward, _, x = measure(method.solve, (A, b), repeat)
    steps = "" if method.steps is None else str(int(np.max(jax.jit(method.steps)(A, b))))
    try:
        compile_g, both, megabytes, (_, (dA, db)) = measure(
            jax.value_and_grad(loss, (0, 1)), (A, b), repeat
        )
    except jax.errors.JaxRuntimeError:
        # A derivative whose solve ran out of steps, in a library that cannot go on with it.
        cells = [name, steps, f"{1e3 * forward:.1f}", f"{relative(x, truth[0]):.0e}", "raises"]
        cells += ["", "", f"{compile_f:.1f}", "", ""]
        return cells, (relative(x, truth[0]), np.inf), (forward, np.inf)
    errors = relative(x, truth[0]), max(relative(dA, truth[1]), relative(db, truth[2]))
    cells = [
        name,
        steps,
        f"{1e3 * forward:.1f}",
        f"{errors[0]:.0e}",
        f"{1e3 * both:.1f}",
        f"{errors[1]:.0e}",
        f"{both / forward:.1f}",
        f"{compile_f:.1f}",
        f"{compile_g:.1f}",
        f"{megabytes:.0f}",
    ]
    return cells, errors, (forward, both)


HEADER = ["method", "steps", "ms", "error", "ms with gradient", "error", "ratio", "compile s"]
HEADER += ["with gradient", "MB"]


def dense(options, dtype):
    """Value and gradient of a dense tall system."""
    rng = np.random.default_rng(options.seed)
    for condition in options.conditions:
        A, b, g = problem(rng, options.rows, options.columns, condition, dtype)
        truth = reference(A, b, g)
        A, b, g = map(jnp.asarray, (A, b, g))
        print(f"\n{options.rows} x {options.columns}, condition {condition:g}, {dtype}")
        rivals = peers(options.rtol)
        if HAS["matfree"] and wanted("unrolled", options):
            steps = int(jax.jit(rivals["matfree"].steps)(A, b))
            rivals[f"unrolled ({steps} steps)"] = unrolled(options.rtol, steps)
        lines, kept = [], {}
        for name, method in rivals.items():
            if not wanted(name, options):
                continue
            cells, errors, times = record(name, method, A, b, g, truth, options.repeat)
            lines.append(cells)
            kept[name] = errors, times
        own = {"gplsq LSMR": ours(options.rtol)}
        equal = "gplsq LSMR at equal error"
        iterative = [kept[name][0] for name in kept if "LSMR" in name or "matfree" in name]
        if iterative and wanted(equal, options):
            goal = [min(error[i] for error in iterative) for i in (0, 1)]
            rtol = loosest(A, b, g, truth, goal, options.rtol)
            own[f"{equal} (rtol {rtol:.0e})"] = ours(rtol)
        own["gplsq LSMR with Sketch()"] = ours(options.rtol, Sketch())
        own["gplsq LSMR with CholeskyQR()"] = ours(options.rtol, CholeskyQR())
        for name, method in own.items():
            if not wanted(name, options):
                continue
            cells, errors, times = record(name, method, A, b, g, truth, options.repeat)
            lines.append(cells)
            kept[name] = errors, times
        print_table(HEADER, lines)
        ratios(kept)


def loosest(A, b, g, truth, goal, rtol):
    """The largest tolerance, in steps of 10^(1/4), that meets both errors of the peers."""
    best = rtol
    solve = jax.jit(lambda A, b, r: ours(r).solve(A, b))
    gradient = jax.jit(jax.grad(lambda A, b, r: jnp.vdot(g, ours(r).solve(A, b)), (0, 1)))
    for candidate in rtol * 10 ** (np.arange(1, 13) / 4):
        r = jnp.asarray(candidate, A.dtype)
        dA, db = gradient(A, b, r)
        errors = relative(solve(A, b, r), truth[0]), relative(dA, truth[1]), relative(db, truth[2])
        if errors[0] > goal[0] or max(errors[1:]) > goal[1]:
            break
        best = candidate
    return float(best)


def ratios(kept):
    """How many times faster than the faster of the peers' LSMRs, and the others."""
    lsmr = [times for name, (_, times) in kept.items() if name in ("matfree", "lineax LSMR")]
    direct = [
        times for name, (_, times) in kept.items() if name in ("lineax QR", "jnp.linalg.lstsq")
    ]
    through = [times for name, (_, times) in kept.items() if name.startswith("unrolled")]
    for name, (_, times) in kept.items():
        if not name.startswith("gplsq"):
            continue
        for label, others in (("LSMR", lsmr), ("QR and SVD", direct), ("unrolled", through)):
            if others:
                fastest = np.min(others, axis=0)
                forward, both = fastest / times
                print(
                    f"{name}: seconds of the faster peer ({label}) over ours: "
                    f"{forward:.1f} forward, {both:.1f} with gradient"
                )


def block(options, dtype):
    """Many right-hand sides: one block here, `vmap` over single ones there."""
    rng = np.random.default_rng(options.seed)
    k = options.right_hand_sides
    for condition in options.conditions:
        A, b, g = problem(rng, options.rows, options.columns, condition, dtype, k)
        truth = reference(A, b, g)
        A, b, g = map(jnp.asarray, (A, b, g))
        print(
            f"\n{options.rows} x {options.columns}, {k} right-hand sides, condition {condition:g}"
        )
        lines, kept = [], {}
        vmapped = {
            name: Method(*(jax.vmap(f, in_axes=(None, 1), out_axes=-1) for f in method))
            for name, method in peers(options.rtol).items()
            if name in ("matfree", "lineax LSMR")
        }
        own = {"gplsq LSMR": ours(options.rtol)}
        own["gplsq LSMR with Sketch()"] = ours(options.rtol, Sketch())
        own["gplsq LSMR with CholeskyQR()"] = ours(options.rtol, CholeskyQR())
        for name, method in {**vmapped, **own}.items():
            if not wanted(name, options):
                continue
            cells, errors, times = record(name, method, A, b, g, truth, options.repeat)
            lines.append(cells)
            kept[name] = errors, times
        print_table(HEADER, lines)
        ratios(kept)


def matrix_free(options, dtype, name, apply, matrix, parameters, size):
    """Value and gradient of an operator given by a linear function with parameters."""
    rng = np.random.default_rng(options.seed)
    shape = jax.eval_shape(lambda p, v: apply(p, v), parameters, jnp.zeros(size, dtype)).shape
    b, g = rng.standard_normal(shape[0]).astype(dtype), rng.standard_normal(size).astype(dtype)
    damp = 0.1
    M = np.asarray(matrix, np.float64)
    x = np.linalg.solve(M.T @ M + damp**2 * np.eye(size), M.T @ b)

    def by_gplsq(p, b):
        operator = Function(lambda v: apply(p, v), jnp.zeros(size, dtype))
        solver = LSMR(rtol=options.rtol, max_steps=MAX_STEPS)
        solution = lstsq(operator, b, damp=damp, solver=solver, throw=False)
        return solution.value, solution.stats.num_steps

    methods = {"gplsq": by_gplsq}
    if HAS["matfree"]:
        import matfree.lstsq

        def by_matfree(p, b):
            def vecmat(u, p):
                return jax.linear_transpose(lambda v: apply(p, v), jnp.zeros(size, dtype))(u)[0]

            run = matfree.lstsq.lsmr(atol=options.rtol, btol=options.rtol, maxiter=MAX_STEPS)
            value, stats = run(vecmat, b, p, damp=damp)
            return value, stats["iteration_count"]

        methods["matfree"] = by_matfree
    print(f"\n{name}, damped by {damp}")
    lines = []
    for label, solve in methods.items():
        lines.append(row(label, solve, (parameters, b), x, g, options.repeat))
    print_table(OPERATOR_HEADER, lines)


OPERATOR_HEADER = [
    *("method", "steps", "ms", "error", "ms with gradient", "ratio", "compile s"),
    *("with gradient", "MB"),
]


def row(label, solve, arguments, truth, g, repeat) -> list[str]:
    """A line of a table of operators; `solve` gives the solution and its number of steps."""

    def loss(*arguments):
        return jnp.vdot(g, solve(*arguments)[0])

    compile_f, forward, _, (value, steps) = measure(solve, arguments, repeat)
    compile_g, both, megabytes, _ = measure(jax.value_and_grad(loss), arguments, repeat)
    cells = [label, str(int(np.max(steps))), f"{1e3 * forward:.1f}"]
    cells += [f"{relative(value, truth):.0e}", f"{1e3 * both:.1f}", f"{both / forward:.1f}"]
    return [*cells, f"{compile_f:.1f}", f"{compile_g:.1f}", f"{megabytes:.0f}"]


def sparse(options, dtype):
    """A sparse matrix: `Sparse` here, BCOO products in the peers."""
    import scipy.sparse
    from jax.experimental.sparse import BCOO

    m, n = options.rows, options.columns
    rng = np.random.default_rng(options.seed)
    scipy_matrix = scipy.sparse.random(m, n, 0.01, random_state=rng, dtype=np.float64).astype(dtype)
    A = BCOO.from_scipy_sparse(scipy_matrix)
    b = rng.standard_normal(m).astype(dtype)
    dense_matrix = scipy_matrix.toarray().astype(np.float64)
    x = np.linalg.solve(dense_matrix.T @ dense_matrix + 0.01 * np.eye(n), dense_matrix.T @ b)
    from gplsq.operators import Sparse

    operator = Sparse(A)
    solver = LSMR(rtol=options.rtol, max_steps=MAX_STEPS)

    def by_gplsq(data, b):
        import equinox as eqx

        moved = eqx.tree_at(lambda s: s.data, operator, data)
        solution = lstsq(moved, b, damp=0.1, solver=solver, throw=False)
        return solution.value, solution.stats.num_steps

    methods = {"gplsq Sparse": (by_gplsq, operator.data)}
    if HAS["matfree"]:
        import matfree.lstsq

        def by_matfree(data, b):
            run = matfree.lstsq.lsmr(atol=options.rtol, btol=options.rtol, maxiter=MAX_STEPS)
            matrix = lambda data: BCOO((data, A.indices), shape=A.shape)  # noqa: E731
            value, stats = run(lambda u, data: u @ matrix(data), b, data, damp=0.1)
            return value, stats["iteration_count"]

        methods["matfree with BCOO"] = (by_matfree, A.data)
    print(f"\nSparse {m} x {n}, 1 % non-zero, damped by 0.1, {dtype}")
    lines = []
    for label, (solve, data) in methods.items():
        lines.append(row(label, solve, (data, b), x, np.ones(n, dtype), options.repeat))
    print_table(OPERATOR_HEADER, lines)


def convolution(options, dtype):
    """Deconvolution of a signal with a learnable filter."""
    size = options.columns
    rng = np.random.default_rng(options.seed)
    kernel = jnp.asarray(rng.standard_normal(9), dtype)
    matrix = np.stack([np.convolve(np.asarray(kernel), row) for row in np.eye(size)], axis=1)
    matrix_free(
        options,
        dtype,
        f"Convolution of {size} numbers with a filter of 9, {dtype}",
        lambda p, v: jnp.convolve(v, p),
        matrix,
        kernel,
        size,
    )


def second(options, dtype):
    """Second derivatives: one Hessian-vector product in the parameters of A."""
    rng = np.random.default_rng(options.seed)
    A, b, g = problem(rng, options.rows, options.columns, 10, dtype)
    A, b, g = map(jnp.asarray, (A, b, g))
    direction = jnp.asarray(rng.standard_normal(A.shape), dtype)
    candidates = {
        "gplsq LSMR": ours(options.rtol),
        "gplsq with Sketch()": ours(options.rtol, Sketch()),
        **peers(options.rtol),
    }
    print(f"\nHessian-vector product in A, {A.shape[0]} x {A.shape[1]}, condition 10, {dtype}")
    lines = []
    for name, method in candidates.items():

        def loss(A, solve=method.solve):
            return jnp.sum(jnp.sin(solve(A, b)) * g)

        def product(A, loss=loss):
            return jax.jvp(jax.grad(loss), (A,), (direction,))[1]

        try:
            compile_s, seconds, megabytes, out = measure(product, (A,), options.repeat)
        except Exception as error:
            lines.append([name, f"fails: {type(error).__name__}", "", "", ""])
            continue
        norm = f"{np.linalg.norm(np.asarray(out, np.float64)):.6g}"
        lines.append([name, f"{1e3 * seconds:.1f}", norm, f"{compile_s:.1f}", f"{megabytes:.0f}"])
    print_table(["method", "ms", "norm of the product", "compile s", "MB"], lines)


def memory(options, dtype):
    """Temporaries of a gradient against the number of iterations."""
    rng = np.random.default_rng(options.seed)
    A, b, g = map(jnp.asarray, problem(rng, options.rows, options.columns, 1e3, dtype))
    lines = []
    for steps in (10, 100, 1000):
        cells = [str(steps)]
        methods = [ours(1e-30, max_steps=steps)]
        methods += [unrolled(options.rtol, steps)] if HAS["matfree"] else []
        for method in methods:
            fn = jax.jit(jax.grad(lambda A, b, s=method.solve: jnp.vdot(g, s(A, b))))
            analysis = fn.lower(A, b).compile().memory_analysis()
            cells.append("?" if analysis is None else f"{analysis.temp_size_in_bytes / 1e6:.1f}")
        lines.append(cells)
    print(f"\nTemporaries of a gradient in MB, {A.shape[0]} x {A.shape[1]}, {dtype}")
    print_table(["steps", "gplsq", "unrolled"][: len(lines[0])], lines)


QUESTIONS = {
    "dense": dense,
    "block": block,
    "sparse": sparse,
    "convolution": convolution,
    "second": second,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=QUESTIONS, nargs="+")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--columns", type=int, default=1_000)
    parser.add_argument("--conditions", type=float, nargs="+", default=[10.0, 100.0, 1000.0])
    parser.add_argument("--right-hand-sides", type=int, default=64)
    parser.add_argument("--rtol", type=float)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--x64", action="store_true", help="float64 instead of float32")
    parser.add_argument("--only", nargs="*", help="lines whose name contains one of these words")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", options.x64)
    dtype = "float64" if options.x64 else "float32"
    if options.rtol is None:
        options.rtol = 1e-10 if options.x64 else 1e-6
    missing = [name for name, there in HAS.items() if not there]
    print(environment() + (f"; not installed: {', '.join(missing)}" if missing else ""))
    for question in options.question:
        QUESTIONS[question](options, dtype)


if __name__ == "__main__":
    main()

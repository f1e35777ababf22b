"""Several outputs: against fits one by one and dense algebra, and what scikit-learn asks."""

import pickle

import numpy as np
import pytest
from several import LENGTHS, WAYS, M, N, P, covariance, given, of_pairs, textbook
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning
from sklearn.model_selection import cross_val_score

import gplsq
from gplsq import GPRegressor
from gplsq.estimators import _regressor
from gplsq.kernels import Coregionalised, Matern32
from gplsq.operators import RowTable
from gplsq.testing import tolerance


@pytest.mark.parametrize("way", ["direct", "kept"])
def test_independent_outputs_are_those_of_the_textbook(several_outputs, way):
    X, y, Z = several_outputs
    gp = given(standardize=False, **WAYS[way]).fit(X, y)
    mean, cov = textbook(covariance(X, X), covariance(X, Z), covariance(Z, Z), y)
    np.testing.assert_allclose(gp.predict(Z), mean, atol=1e-6)
    latent, _ = gp.calibration_
    got = gp.predict(Z, return_cov=True, include_noise=False)[1]
    np.testing.assert_allclose(got, latent * cov[..., None], atol=1e-6 * latent.max())


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_outputs_are_predicted_as_each_would_be_alone(several_outputs, precision):
    X, y, Z = (part.astype(precision) for part in several_outputs)
    gp = given().fit(X, y)
    alone = [given().fit(X, column) for column in y.T]
    atol = tolerance(np.dtype(precision), 1000) * np.abs(y).max()
    for noise in (True, False):
        got = gp.predict(Z, return_std=True, include_noise=noise)
        each = [g.predict(Z, return_std=True, include_noise=noise) for g in alone]
        for ours, theirs in zip(got, zip(*each, strict=True), strict=True):
            assert ours.dtype == precision
            np.testing.assert_allclose(ours, np.stack(theirs, axis=1), atol=atol, rtol=1e-3)
    assert gp.score(X, y) == pytest.approx(
        np.mean([g.score(X, c) for g, c in zip(alone, y.T, strict=True)]), abs=1e-4
    )


def test_outputs_share_one_factorisation(several_outputs):
    X, y, _ = several_outputs
    posterior = given().fit(X, y).posterior_
    assert posterior.solution.value.shape == (N, P)
    assert posterior.solution.ok.shape == (P,)
    assert posterior.prepared.lower.shape == (N, N)


def test_each_output_has_intervals_of_its_own(rng):
    X = rng.uniform(-2, 2, (150, 1))
    spread = np.array([0.05, 0.5])
    y = np.sin(2 * X) + spread * rng.standard_normal((150, 2))
    gp = GPRegressor(levels=[(150, 20)], random_state=0).fit(X, y)
    assert gp.calibration_.noise_variance.shape == (2,)
    std = gp.predict(X, return_std=True)[1].mean(axis=0)
    np.testing.assert_allclose(std, spread, rtol=0.3)


@pytest.mark.parametrize("outputs", ["independent", "correlated"])
def test_draws_have_the_predicted_moments(several_outputs, outputs):
    X, y, Z = several_outputs
    gp = given(outputs=outputs).fit(X, y)
    draws = gp.sample_y(Z, 4000, random_state=1)
    assert draws.shape == (M, P, 4000)
    mean, cov = gp.predict(Z, return_cov=True)
    std = np.sqrt(np.diagonal(cov).T)
    np.testing.assert_allclose(std, gp.predict(Z, return_std=True)[1], rtol=1e-6)
    assert np.abs((draws.mean(axis=2) - mean) / std).max() < 0.08
    got = np.cov(draws[:, 1])
    np.testing.assert_allclose(got, cov[..., 1], atol=0.1 * cov[..., 1].max())


# The estimator around it.


@pytest.mark.parametrize("outputs", ["independent", "correlated"])
@pytest.mark.parametrize("with_holes", [False, True])
def test_copies_saved_models_and_updates_keep_all_outputs(
    several_outputs, holes, tmp_path, outputs, with_holes
):
    X, y, Z = several_outputs
    y = np.where(holes, np.nan, y) if with_holes else y
    gp = given(outputs=outputs, missing="drop").fit(X, y)
    expected = gp.predict(Z, return_std=True)
    gp.save(tmp_path / "model.gplsq")
    # The scaling stays that of the first fit.
    used = X[~np.isnan(y).all(axis=1)]
    shift, scale = np.nanmean(y, axis=0), np.nanstd(y, axis=0)
    rows = (np.concatenate([X, Z]) - used.mean(axis=0)) / used.std(axis=0)
    targets = (np.concatenate([y, np.zeros((M, P))]) - shift) / scale
    plain = given(outputs=outputs, missing="drop", standardize=False, kernel=gp.kernel_)
    after = plain.fit(rows, targets).predict(rows[N:]) * scale + shift
    for copy in (gplsq.load(tmp_path / "model.gplsq"), pickle.loads(pickle.dumps(gp))):
        np.testing.assert_array_equal(copy.predict(Z, return_std=True), expected)
        more = copy.update(Z, np.zeros((M, P)))
        np.testing.assert_allclose(more.predict(Z), after, atol=1e-7)
    text = str(gp.summary())
    assert f"{P} {outputs}" in text
    assert "noise std 2" in text
    assert "targets, each predicted from the others" in text


def test_an_update_is_a_fit_to_all_rows(several_outputs, holes):
    X, y, Z = several_outputs
    plain = {"standardize": False, "missing": "drop"}
    for outputs in ("independent", "correlated"):
        for gone in (np.zeros_like(holes), holes):
            old, new = np.where(gone, np.nan, y)[:30], y[30:]
            model = given(**plain) if outputs == "independent" else of_pairs(standardize=False)
            updated = clone(model).fit(X[:30], old).update(X[30:], new)
            whole = clone(model).fit(X, np.concatenate([old, new]))
            np.testing.assert_allclose(updated.predict(Z), whole.predict(Z), atol=1e-7)


def test_correlated_outputs_are_updated_with_what_there_is(several_outputs, holes):
    X, y, Z = several_outputs
    y = np.where(holes, np.nan, y)
    updated = of_pairs(standardize=False).fit(X[:30], y[:30]).update(X[30:], y[30:])
    whole = of_pairs(standardize=False).fit(X, y)
    np.testing.assert_allclose(updated.predict(Z), whole.predict(Z), atol=1e-7)


def test_scikit_learn_knows_and_uses_several_outputs(several_outputs):
    X, y, _ = several_outputs
    gp = given()
    assert gp.__sklearn_tags__().target_tags.multi_output
    assert not given(outputs="correlated").__sklearn_tags__().target_tags.single_output
    halves = [(np.arange(20, 40), np.arange(20)), (np.arange(20), np.arange(20, 40))]
    expected = [clone(gp).fit(X[a], y[a]).score(X[b], y[b]) for a, b in halves]
    np.testing.assert_allclose(cross_val_score(clone(gp), X, y, cv=2), expected, rtol=1e-9)


def test_one_column_is_one_output_with_the_usual_warning(several_outputs):
    X, y, Z = several_outputs
    with pytest.warns(DataConversionWarning, match="column-vector y"):
        gp = given(missing="drop").fit(X, np.where(np.arange(N) == 3, np.nan, y[:, 0])[:, None])
    there = np.arange(N) != 3
    expected = given().fit(X[there], y[there, 0]).predict(Z)
    np.testing.assert_allclose(gp.predict(Z), expected, rtol=1e-9)


def test_a_constant_output_does_not_stop_the_others(several_outputs):
    X, y, Z = several_outputs
    y[:, 1] = 5.0
    for outputs in ("independent", "correlated"):
        gp = GPRegressor(outputs=outputs, levels=[(N, 3)], random_state=0).fit(X, y)
        mean, std = gp.predict(Z, return_std=True)
        np.testing.assert_allclose(mean[:, 1], 5.0, atol=0.2)
        assert np.isfinite(std).all()


def test_a_table_beyond_memory_takes_several_outputs(several_outputs):
    X, y, Z = several_outputs
    X, y = X.astype(np.float32), y.astype(np.float32)
    gp = given(solver="inducing", inducing=X[:20], standardize=False, rtol=1e-5)
    expected = clone(gp).fit(X, y).predict(Z)
    np.testing.assert_allclose(gp.fit(RowTable(X), y).predict(Z), expected, atol=1e-3)


# Refused.


def hole(y, *where):
    copied = np.array(y)
    copied[where] = np.nan
    return copied


def test_missing_targets_are_refused_unless_asked_for(several_outputs):
    X, y, _ = several_outputs
    for targets in (hole(y, 3, 1), hole(y[:, 0], 3)):
        with pytest.raises(ValueError, match=r"Input y contains NaN: 1 of .* missing.*drop"):
            given().fit(X, targets)


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"missing": "drop"}, lambda y: hole(y, slice(None), 1), r"targets of the outputs \[1\]"),
        ({"missing": "drop"}, lambda y: hole(y[:, 0], slice(None)), "all targets are missing"),
        ({"missing": "drop"}, lambda y: hole(y, slice(1, None), 2), r"outputs \[2\] have one"),
        ({"missing": "drop"}, lambda y: hole(y[:, 0], slice(1, None)), "y has one target"),
        ({"missing": "ignore"}, lambda y: y, "missing must be one of 'raise', 'drop'"),
        ({"outputs": "both"}, lambda y: y, "outputs must be one of 'independent', 'correlated'"),
        ({"outputs": "correlated"}, lambda y: y[:, 0], r"several outputs, y of shape \(n, p\)"),
        ({"missing": "drop"}, lambda y: y + np.inf, "Input y contains infinity"),
    ],
)
def test_bad_targets_are_refused_by_name(several_outputs, settings, change, message):
    X, y, _ = several_outputs
    with pytest.raises(ValueError, match=message):
        given(**settings).fit(X, change(y))


def test_arguments_that_do_not_go_together_are_refused_before_tuning(several_outputs, monkeypatch):
    X, y, _ = several_outputs
    fitted = given(missing="drop").fit(X, y)
    monkeypatch.setattr(_regressor, "tune_or_keep", lambda *_: pytest.fail("tuned before"))
    with pytest.raises(ValueError, match="outputs of y have different scales"):
        given().fit(X, y, noise_variance=np.ones(N))
    other = Coregionalised(Matern32(LENGTHS), 2)
    for kernel in (other, 2.0 * other):
        with pytest.raises(ValueError, match=r"kernel is of 2 outputs .*, and y has 3"):
            given(kernel=kernel, outputs="correlated").fit(X, y)
    rows = RowTable(X.astype(np.float32))
    low = {"solver": "inducing", "inducing": 10, "missing": "drop"}
    with pytest.raises(ValueError, match='models of a RowTable have outputs="independent"'):
        given(outputs="correlated", **low).fit(rows, y)
    for gone in (hole(y, 3, 1), hole(y, 3)):
        with pytest.raises(ValueError, match="rows of a RowTable have all of them"):
            given(**low).fit(rows, gone)
    with pytest.raises(ValueError, match="independent outputs take in rows with all"):
        fitted.update(X[:2], hole(y[:2], 0, 1))
    with pytest.raises(ValueError, match=r"y must have shape \(s, 3\)"):
        fitted.update(X[:2], y[:2, :2])

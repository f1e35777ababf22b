"""scikit-learn's own checks of an estimator."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from gplsq import GPClassifier, GPRegressor

# As of scikit-learn's own estimators that choose by cross-validation.
REPEATED = {
    "check_sample_weight_equivalence_on_dense_data": "repeated rows are held out one by one while "
    "tuning and predicted by their copies, a row of weight two is held out whole"
}


@parametrize_with_checks(
    [
        GPRegressor(levels=[(800, 2)], random_state=0),
        GPClassifier(levels=[(800, 2)], random_state=0),
    ],
    expected_failed_checks=lambda _: REPEATED,
)
def test_the_estimator_keeps_the_contract_of_scikit_learn(estimator, check):
    check(estimator)

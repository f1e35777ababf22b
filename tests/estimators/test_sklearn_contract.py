"""scikit-learn's own checks of an estimator."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from gplsq import GPClassifier, GPRegressor


@parametrize_with_checks(
    [
        GPRegressor(levels=[(800, 2)], random_state=0),
        GPClassifier(levels=[(800, 2)], random_state=0),
    ]
)
def test_the_estimator_keeps_the_contract_of_scikit_learn(estimator, check):
    check(estimator)

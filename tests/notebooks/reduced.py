"""Smaller values of the notebooks' parameters, with which they run in a test; the notebooks hold the real ones.

A name that a notebook does not declare is an error.
"""

REDUCED: dict[str, dict[str, object]] = {
    "01_train_resnet32": {"LIVE_IMAGES": 640, "LIVE_EPOCHS": 2},
    "02_deploy_model": {"IMAGES": 40},
    "03_performance_metrics": {"REQUESTS": 100, "WRONG": 10},
    "04_payload_events": {"REQUESTS": 30},
    "05_statistical_metrics": {"FEEDBACK": 100, "LATE": 40},
    "06_outlier_vae": {"LIVE_IMAGES": 2000, "TEST_IMAGES": 500, "NORMAL_REQUESTS": 40},
    "07_drift_ks": {"UNDRIFTED_WINDOWS": 3, "ROWS": 100},
    "08_explain_anchor_images": {"IMAGES": 2},
    "09_explainer_methods": {"PER_CLAUSE": 2, "REQUESTS": 2},
    "10_explanations_in_production": {"APPLICANTS": 5},
}

"""The detect server: outlier and drift detectors and metrics servers behind CloudEvents.

Arguments, paths, headers, environment, reply events and metric names are those of Seldon's
alibi-detect-server 1.19. `python -m helpers.serving.detect --help` lists the arguments.

- `cli`              arguments and environment
- `app`              the HTTP side: one event in, at most one event out
- `verdict`          what a detector says about an event, and the detector's interface
- `outlier`          OutlierDetector; `vae_scores` is its fast path
- `drift`            DriftDetector; `window` holds its rows
- `feedback`         MetricsServer; `completion` asks the payload log for a missing response
- `metrics_base`     the base class of metrics servers, and by name or dotted path: `metrics_models`
- `classification`, `kl_divergence`, `rmse`   the metrics servers that come along
- `exposition`       metrics with the labels that Seldon's servers give them
- `remembered`       events that were already answered
- `forwarding`       inliers sent on to the broker
"""

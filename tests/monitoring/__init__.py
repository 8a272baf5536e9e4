"""What the tests of dashboards and rules share."""

//! Placeholder root; filled in as the suites land.

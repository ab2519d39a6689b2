//! Logs, traces and metrics of the binary

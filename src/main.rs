//! The `qvgen` program.

fn main() -> std::process::ExitCode {
    qvgen::cli::main()
}

//! Man pages and shell completions generated from the argument definitions, for packages: a hidden option like
//! ripgrep's `--generate`.
//!
//! ```text
//! cp-infer --generate man > cp-infer.1
//! cp-build --generate man import > cp-build-import.1     one page per subcommand, like git
//! cp-infer --generate complete-bash                      complete-zsh, complete-fish
//! ```

use std::ffi::OsString;
use std::io::Write;

use clap::{Command, Parser};
use clap_complete::{Shell, generate};
use clap_mangen::Man;

/// Parses arguments, which start with the program's name. Exits if they are invalid, or ask for help or
/// generated text.
pub fn parse<P: Parser>(args: impl IntoIterator<Item = OsString>) -> P {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some((generate, request)) = args.get(1..).and_then(<[_]>::split_first)
        && generate == "--generate"
    {
        let request: Vec<&str> = request.iter().filter_map(|word| word.to_str()).collect();
        std::process::exit(match text(P::command(), &request) {
            // The reader may have gone away.
            Ok(text) => i32::from(std::io::stdout().write_all(&text).is_err()),
            Err(problem) => {
                eprintln!("{}: --generate: {problem}", P::command().get_name());
                2
            }
        });
    }
    P::parse_from(args)
}

/// The output of `--generate REQUEST`.
fn text(mut command: Command, request: &[&str]) -> Result<Vec<u8>, String> {
    command.build();
    let name = command.get_name().to_owned();
    let shell = match request {
        ["man"] => return page(command),
        ["man", subcommand] => {
            // After `build`, the subcommand and its page are named `cp-build-import`.
            let found = command.find_subcommand(subcommand).cloned();
            return page(found.ok_or("unknown subcommand")?);
        }
        ["complete-bash"] => Shell::Bash,
        ["complete-zsh"] => Shell::Zsh,
        ["complete-fish"] => Shell::Fish,
        _ => {
            return Err(
                "expected man, man SUBCOMMAND, complete-bash, complete-zsh or complete-fish".into(),
            );
        }
    };
    let mut text = Vec::new();
    generate(shell, &mut command, &name, &mut text);
    if shell != Shell::Bash {
        return Ok(text);
    }
    // clap_complete 4.6 uses two different labels for a subcommand of a program with a hyphen, and never
    // matches one with the other.
    let (wrong, right) = (name.replace('-', "__subcmd__"), name.replace('-', "__"));
    let text = String::from_utf8(text).map_err(|error| error.to_string())?;
    Ok(text.replace(&wrong, &right).into_bytes())
}

fn page(command: Command) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let version = format!("centerpoint {}", env!("CARGO_PKG_VERSION"));
    Man::new(command)
        .source(version)
        .manual("CenterPoint lidar detection")
        .render(&mut text)
        .map_err(|error| error.to_string())?;
    Ok(text)
}

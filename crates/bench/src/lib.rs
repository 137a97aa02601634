//! Floors, ratios and the tables that report them.
//!
//! A figure is worth something beside another one of the same run: what is measured here is what the machine can do
//! without us, so that what we do can be told as a ratio. Knows no server and no worker; the binary runs those.

mod floor;
pub use floor::{decode_fps, runtime_fps};

mod load;
pub use load::{Api, Connection, Deck, Load, Pace, Question, input, json_numbers, load, load_deck};

mod process;
pub use process::{Memory, cpu_of, memory_of, private_bytes};

mod ready;
pub use ready::{AllReady, Readiness, all_ready, readiness};

mod table;
pub use table::{median, table};

//! [`functions`]: a runtime's functions, found by name in its shared library.

/// Declares a `Library` of functions of a C API, by field, symbol and type, with a `find` that looks each of them up.
macro_rules! functions {
    ($($name:ident: $symbol:literal = fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The shared library's functions; valid for the life of the process, as it is never unloaded.
        pub(super) struct Library {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            _shared: libloading::os::unix::Library,
        }

        impl Library {
            #[expect(unsafe_code, reason = "the functions' types are promised by the header, not by the library")]
            fn find(shared: libloading::os::unix::Library) -> std::result::Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the types are those of the header for these names, and the pointers live as long as
                    // the library, which is kept beside them.
                    $($name: unsafe { *shared.get(concat!($symbol, "\0").as_bytes())? },)*
                    _shared: shared,
                })
            }
        }
    };
}

pub(crate) use functions;

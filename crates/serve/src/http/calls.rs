//! Every call of the REST APIs, as the OpenAPI documents list it.

use super::openapi::Listener;

/// A call, by whichever of its paths.
pub(super) struct Call {
    /// `get` or `post`.
    pub(super) method: &'static str,
    pub(super) paths: &'static [&'static str],
    pub(super) tag: &'static str,
    pub(super) says: &'static str,
    /// Parameters of the query: name and meaning.
    pub(super) query: &'static [(&'static str, &'static str)],
    pub(super) takes: Takes,
    /// Content type and form of what it answers.
    pub(super) answers: &'static [(&'static str, &'static str)],
    /// The form of its refusals.
    pub(super) refusal: &'static str,
    /// The status that is a "no" in a form of its own.
    pub(super) negative: Option<(u16, &'static str)>,
    /// Refusals besides those that a body brings.
    pub(super) statuses: &'static [u16],
    /// Which listeners take it.
    pub(super) listeners: &'static [Listener],
}

/// What a call takes besides its path.
pub(super) enum Takes {
    Nothing,
    Body {
        required: bool,
        /// Content type and form.
        kinds: &'static [(&'static str, &'static str)],
    },
}

impl Call {
    /// With what it may be refused, besides by 405.
    pub(super) fn refusals(&self) -> Vec<u16> {
        let of_body: &[u16] = match self.takes {
            Takes::Nothing => &[],
            Takes::Body { .. } => &[400, 408, 413, 415, 429],
        };
        let negative = self.negative.map(|(status, _)| status);
        of_body.iter().chain(self.statuses).copied().chain(negative).collect()
    }
}

const JSON: &str = "application/json";
const TENSORS: &[(&str, &str)] = &[(JSON, "InferRequest"), ("application/octet-stream", "bytes")];
const METRICS: &[(&str, &str)] = &[("application/openmetrics-text", "text")];
const BOTH: &[Listener] = &[Listener::Inference, Listener::Admin];
/// What a call that names a model may meet.
const MODEL: &[u16] = &[400, 404, 503];
/// And one that has it run.
const RUN: &[u16] = &[404, 499, 500, 501, 503, 504];
/// And one that changes the server.
const CHANGE: &[u16] = &[403, 404, 409, 500, 501, 503, 504];

/// A GET, without anything to say of it.
const GET: Call = Call {
    method: "get",
    paths: &[],
    tag: "",
    says: "",
    query: &[],
    takes: Takes::Nothing,
    answers: &[],
    refusal: "Refusal",
    negative: None,
    statuses: &[],
    listeners: &[Listener::Inference],
};
/// A POST of `kinds`, likewise.
const fn post(required: bool, kinds: &'static [(&'static str, &'static str)]) -> Call {
    Call { method: "post", takes: Takes::Body { required, kinds }, ..GET }
}
/// A POST whose body is not looked at.
const BARE_POST: Call = Call { method: "post", ..GET };

const HEALTH: &str = "Health";
const OIP: &str = "Open Inference Protocol";
const TRITON: &str = "Triton's extensions";
const TFS: &str = "TensorFlow Serving, KServe V1";
const OURS: &str = "Packing system";

pub(super) const CALLS: &[Call] = &[
    Call {
        paths: &["/openapi.json"],
        tag: HEALTH,
        says: "This document.",
        answers: &[(JSON, "anything")],
        listeners: BOTH,
        ..GET
    },
    Call {
        paths: &["/v2/health/live", "/livez", "/healthz", "/-/healthz"],
        tag: HEALTH,
        says: "Whether the process answers.",
        answers: &[(JSON, "Live")],
        listeners: BOTH,
        ..GET
    },
    Call {
        paths: &["/v2/health/ready", "/readyz"],
        tag: HEALTH,
        says: "Whether it takes work.",
        answers: &[(JSON, "Ready")],
        negative: Some((503, "Ready")),
        listeners: BOTH,
        ..GET
    },
    Call {
        paths: &["/ping", "/health"],
        tag: HEALTH,
        says: "The same, in the words of servers with one probe.",
        answers: &[(JSON, "Ping")],
        negative: Some((503, "Ping")),
        listeners: BOTH,
        ..GET
    },
    Call { paths: &["/"], tag: OURS, says: "Its health.", answers: &[(JSON, "Root")], ..GET },
    Call {
        paths: &["/monitoring/prometheus/metrics"],
        tag: HEALTH,
        says: "Metrics, by TensorFlow Serving's path.",
        answers: METRICS,
        listeners: BOTH,
        ..GET
    },
    Call {
        paths: &["/metrics"],
        tag: HEALTH,
        says: "Metrics.",
        answers: METRICS,
        listeners: &[Listener::Admin],
        ..GET
    },
    Call { paths: &["/v2"], tag: OIP, says: "The server's metadata.", answers: &[(JSON, "Server")], ..GET },
    Call {
        paths: &["/v2/models", "/v1/models"],
        tag: OIP,
        says: "The names of all models.",
        answers: &[(JSON, "Models")],
        ..GET
    },
    Call {
        paths: &["/v2/models/{model}", "/v2/models/{model}/versions/{version}"],
        tag: OIP,
        says: "What a model takes and gives: by its own name its tensors, by NAME:answers what people give it and are told.",
        answers: &[(JSON, "Model")],
        statuses: MODEL,
        ..GET
    },
    Call {
        paths: &["/v2/models/{model}/ready", "/v2/models/{model}/versions/{version}/ready"],
        tag: OIP,
        says: "Whether a model takes work.",
        answers: &[(JSON, "ModelReady")],
        negative: Some((400, "ModelReady")),
        statuses: &[404],
        ..GET
    },
    Call {
        paths: &["/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"],
        tag: OIP,
        says: "Inference on tensors, or on texts and pictures in BYTES tensors where the model knows its task. With \
               Inference-Header-Content-Length the body is JSON of that length and then the tensors' bytes.",
        answers: &[(JSON, "InferResponse"), ("application/octet-stream", "bytes")],
        statuses: RUN,
        ..post(true, TENSORS)
    },
    Call {
        paths: &["/v2/models/{model}/config", "/v2/models/{model}/versions/{version}/config"],
        tag: TRITON,
        says: "How a model is run.",
        answers: &[(JSON, "ModelConfig")],
        statuses: MODEL,
        ..GET
    },
    Call {
        paths: &["/v2/models/stats", "/v2/models/{model}/stats", "/v2/models/{model}/versions/{version}/stats"],
        tag: TRITON,
        says: "What one model has done, or all.",
        answers: &[(JSON, "Statistics")],
        statuses: MODEL,
        ..GET
    },
    Call {
        paths: &["/v2/repository/index", "/v2/repository/{repository}/index"],
        tag: TRITON,
        says: "Every model that is known, and its state.",
        answers: &[(JSON, "Index")],
        ..post(false, &[(JSON, "IndexRequest")])
    },
    Call {
        paths: &[
            "/v2/repository/models/{model}/load",
            "/v2/repository/{repository}/models/{model}/load",
            "/v2/repository/models/{model}/unload",
            "/v2/repository/{repository}/models/{model}/unload",
        ],
        tag: TRITON,
        says: "Loads or unloads a model, where the server was started for that.",
        answers: &[],
        statuses: CHANGE,
        ..post(false, &[(JSON, "ChangeRequest")])
    },
    Call {
        paths: &["/v2/logging"],
        tag: TRITON,
        says: "What is logged; on the management listener.",
        answers: &[(JSON, "LogSettings")],
        statuses: &[403, 500],
        ..GET
    },
    Call {
        paths: &["/v2/logging"],
        tag: TRITON,
        says: "Changes what is logged; on the management listener.",
        answers: &[(JSON, "LogSettings")],
        statuses: &[403, 500, 501],
        ..post(false, &[(JSON, "LogSettings")])
    },
    Call {
        paths: &["/v2/systemsharedmemory/status", "/v2/systemsharedmemory/region/{region}/status"],
        tag: TRITON,
        says: "The regions of shared memory, or one.",
        answers: &[(JSON, "Regions")],
        statuses: &[404, 501],
        ..GET
    },
    Call {
        paths: &["/v2/systemsharedmemory/region/{region}/register"],
        tag: TRITON,
        says: "Names a region of shared memory.",
        answers: &[],
        statuses: &[403, 404, 409, 500, 501],
        ..post(true, &[(JSON, "RegisterRequest")])
    },
    Call {
        paths: &["/v2/systemsharedmemory/unregister", "/v2/systemsharedmemory/region/{region}/unregister"],
        tag: TRITON,
        says: "Takes a region's name away, or all names.",
        answers: &[],
        statuses: &[404, 501],
        ..BARE_POST
    },
    Call {
        paths: &["/v1/models/{model}", "/v1/models/{model}/versions/{version}", "/v1/models/{model}/labels/{label}"],
        tag: TFS,
        says: "Where a model's versions stand.",
        answers: &[(JSON, "ModelStatus")],
        negative: Some((503, "anything")),
        statuses: &[400, 404],
        ..GET
    },
    Call {
        paths: &[
            "/v1/models/{model}/metadata",
            "/v1/models/{model}/versions/{version}/metadata",
            "/v1/models/{model}/labels/{label}/metadata",
        ],
        tag: TFS,
        says: "A model's signature.",
        answers: &[(JSON, "SignatureDef")],
        statuses: MODEL,
        ..GET
    },
    Call {
        paths: &[
            "/v1/models/{model}:predict",
            "/v1/models/{model}/versions/{version}:predict",
            "/v1/models/{model}/labels/{label}:predict",
        ],
        tag: TFS,
        says: "Inference, by rows or by columns; on texts and pictures where the model knows its task.",
        answers: &[(JSON, "PredictResponse")],
        statuses: RUN,
        ..post(true, &[(JSON, "PredictRequest")])
    },
    Call {
        paths: &[
            "/v1/models/{model}:classify",
            "/v1/models/{model}/versions/{version}:classify",
            "/v1/models/{model}/labels/{label}:classify",
            "/v1/models/{model}:regress",
            "/v1/models/{model}/versions/{version}:regress",
            "/v1/models/{model}/labels/{label}:regress",
        ],
        tag: TFS,
        says: "Classes with scores, or numbers, of examples.",
        answers: &[(JSON, "ExamplesResponse")],
        statuses: RUN,
        ..post(true, &[(JSON, "ExamplesRequest")])
    },
    Call {
        paths: &[
            "/v1/models/{model}:explain",
            "/v1/models/{model}/versions/{version}:explain",
            "/v1/models/{model}/labels/{label}:explain",
        ],
        tag: TFS,
        says: "KServe V1's call; no model here has an explainer, so it is refused.",
        answers: &[(JSON, "anything")],
        statuses: RUN,
        ..post(false, &[(JSON, "anything")])
    },
    Call {
        paths: &["/predictions/{model}"],
        tag: OURS,
        says: "Asks a model that knows its task, by query; without anything to ask, a question that is built in.",
        query: &[
            ("seq_0", "The question, as the packing system's clients send it."),
            ("seq_1", "Its context."),
            ("question", "The question."),
            ("context", "The text that is searched for the answer."),
            ("text", "The text, for tasks of one text."),
            ("text_pair", "The second text, for tasks of two."),
        ],
        answers: &[(JSON, "Detail")],
        refusal: "DetailedRefusal",
        statuses: &[400, 404, 408, 413, 415, 429, 499, 500, 501, 503, 504],
        ..GET
    },
    Call {
        paths: &["/predictions/{model}"],
        tag: OURS,
        says: "Asks a model that knows its task; a picture is the body, or a part of a form that is a file.",
        answers: &[(JSON, "Detail")],
        refusal: "DetailedRefusal",
        statuses: RUN,
        ..post(
            false,
            &[
                (JSON, "PredictionsRequest"),
                ("text/plain", "text"),
                ("application/x-www-form-urlencoded", "PredictionsForm"),
                ("multipart/form-data", "PredictionsParts"),
                ("image/jpeg", "bytes"),
                ("image/png", "bytes"),
                ("image/webp", "bytes"),
                ("application/octet-stream", "bytes"),
            ],
        )
    },
    Call {
        paths: &["/v1/embeddings"],
        tag: "OpenAI",
        says: "Vectors of texts.",
        answers: &[(JSON, "EmbeddingsResponse")],
        refusal: "EmbeddingsRefusal",
        statuses: RUN,
        ..post(true, &[(JSON, "EmbeddingsRequest")])
    },
];

package schema

import _ "embed"

// AsyncAPI describes what a consumer reads, as an AsyncAPI 3.0 document: the
// subjects, the headers and the data of events, tombstones and dead letters,
// each with an example. Its references to the data's schema are to
// [JSONSchema] by its file name, so a tool that follows them needs both files.
//
//go:embed asyncapi.json
var AsyncAPI []byte

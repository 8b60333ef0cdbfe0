// Package api serves the HTTP API: JSON in, JSON out, RFC 9457 problems.
//
// [New] builds the handler from the rooms' services, which it takes through
// the small interfaces declared here. A handler reads its input, makes one
// call and returns its error; [problemOf] alone knows which errs.Kind is which
// status. OpenAPI 3.1 is generated from the same registrations.
//
// A request passes the transport (HTTPS, other sites' pages, request ids), the
// gate of its operation (who may call it, before the body is read) and a strict
// reading of its body (package strict). Validate, validate-batch and forward have a second,
// short way in for requests of the common shape: whatever it does not take goes
// the long way. The package keeps no state but counters and starts no goroutine.
package api

// Package api serves the HTTP API: JSON in, JSON out, RFC 9457 problems.
//
// [New] builds the handler from the rooms' services, which it takes through
// the small interfaces declared here. A handler reads its input, makes one
// call and returns its error; [problemOf] alone knows which errs.Kind is which
// status. OpenAPI 3.1 is generated from the same registrations. The hot routes
// (validate, forward) are plain handlers documented beside them. The package
// keeps no state but counters and starts no goroutine.
package api

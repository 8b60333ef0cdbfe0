package user_test

import (
	"context"
	"fmt"

	"rootstream/user"
)

func Example() {
	ctx := context.Background()
	rules, err := user.NewRules(user.RulesConfig{})
	if err != nil {
		panic(err)
	}
	hasher, err := user.NewHasher(user.HasherConfig{})
	if err != nil {
		panic(err)
	}

	wish := user.Registration{Username: "ada", Email: "ada@example.org", Password: "passwordpassword"}
	fmt.Println(rules.Registration(wish))
	wish.Password = "wet socks on tuesday"
	fmt.Println(rules.Registration(wish))

	// The hash is made before the transaction that stores it begins.
	hash, err := hasher.Hash(ctx, wish.Password)
	if err != nil {
		panic(err)
	}
	verdict, err := hasher.Verify(ctx, hash, "wet socks on tuesday")
	fmt.Println(verdict.OK, err)

	// Nobody costs as much time as somebody.
	verdict, err = hasher.Verify(ctx, "", "wet socks on tuesday")
	fmt.Println(verdict.OK, err)
	// Output:
	// some fields are not valid: password is among the first that attackers try; choose something less common
	// <nil>
	// true <nil>
	// false <nil>
}

; Cliente de licença com redundância de servidores, para AutoHotkey v1.1 (Unicode, 32 ou 64 bits).
;
; No seu programa, antes de tudo:
;
;     #Include %A_ScriptDir%\SOLUCAO_COM_REDUNDANCIA.ahk
;     licenca := LicenseAPI.Check()
;     if (!licenca.allow) {
;         MsgBox, 16, Licença, % licenca.message
;         ExitApp, 1
;     }
;
; licenca.allow     verdadeiro se o programa pode funcionar
; licenca.status    "online", "offline", "denied" (negada) ou "unavailable" (ninguém pôde decidir)
; licenca.message   texto para o usuário
; licenca.features  recursos da licença, uma lista
; licenca.config    o que o servidor mandou em "config" (interval, message, update); vazio offline
;
; O guia completo está em docs/pt-BR/migracao.md. Salve este arquivo em UTF-8 com BOM.

; ---------------------------------------------------------------------------------------------
; Configuração: mude aqui.

; Servidores em ordem de prioridade, sem barra no fim.
global g_LicenseAPI_Servers := []
g_LicenseAPI_Servers[1] := "https://api1.railway.app"      ; Servidor principal
g_LicenseAPI_Servers[2] := "https://api2.onrender.com"     ; Backup 1
g_LicenseAPI_Servers[3] := "https://api3.fly.dev"          ; Backup 2

; As mesmas API_KEY e SHARED_SECRET dos servidores.
global g_LicenseAPI_Key := "SUA_API_KEY_AQUI"
global g_LicenseAPI_SharedSecret := "SEU_SHARED_SECRET_AQUI"

; A chave pública raiz (x e y). Com ela só valem respostas assinadas, e existe o modo offline.
; Vazia: vale a regra antiga (o primeiro servidor que responde decide), sem modo offline.
global g_LicenseAPI_RootKeyX := ""
global g_LicenseAPI_RootKeyY := ""

; A identidade desta máquina, com 16 caracteres ou mais. Se os seus clientes antigos a calculam de
; outro modo, ponha aqui o MESMO cálculo: para os servidores outra identidade é outra máquina.
global g_LicenseAPI_DeviceId := LicenseAPI.MachineId()

global g_LicenseAPI_Version := "1.0.0"
global g_LicenseAPI_TimeoutSeconds := 10        ; por servidor
global g_LicenseAPI_StateFile := A_AppData "\LicenseAPI\state.txt"

; ---------------------------------------------------------------------------------------------
; Daqui para baixo não é preciso mudar nada.

; Decides whether this program may run. Texts that people read are in Portuguese.
; What may be believed: with a pinned root key, only what a certified host has signed, be it yes or
; no; without one, the first answer. A "reason" is a text for the log; it never holds a secret.
class LicenseAPI {
    static RememberSeconds := 3600      ; how long a backup that answered is asked first
    static ClockSlackSeconds := 300     ; clocks are corrected by a little all the time
    static AnswerCharsMax := 262144
    static LogBytesMax := 262144

    Check() {
        this.RequireConfiguration()
        state := new LicenseAPI_State(g_LicenseAPI_StateFile)
        heard := {denials: 0, answers: 0, message: "", reasons: ""}
        verdict := this.AskServers(state, heard)
        if (!verdict)
            verdict := this.GoOffline(state, heard)
        if (!state.Save())
            this.Log("failover", "estado não gravado em " g_LicenseAPI_StateFile)
        return verdict
    }

    MachineId() {
        view := A_Is64bitOS ? 64 : 32
        SetRegView, %view%
        RegRead, guid, HKLM\SOFTWARE\Microsoft\Cryptography, MachineGuid
        SetRegView, Default
        return SubStr(LicenseAPI_Crypto.Sha256Hex("LicenseAPI|" guid), 1, 32)
    }

    RequireConfiguration() {
        if (!g_LicenseAPI_Servers.Length())
            throw Exception("g_LicenseAPI_Servers está vazio")
        if (StrLen(g_LicenseAPI_DeviceId) < 16)
            throw Exception("g_LicenseAPI_DeviceId precisa de 16 caracteres ou mais")
        if (!this.IsPinned())
            return
        for _, coordinate in [g_LicenseAPI_RootKeyX, g_LicenseAPI_RootKeyY]
            if (LicenseAPI_Crypto.FromBase64Url(coordinate, bytes) != 32)
                throw Exception("g_LicenseAPI_RootKeyX e Y não são uma chave P-256 (43 caracteres cada)")
    }

    IsPinned() {
        return (g_LicenseAPI_RootKeyX != "" || g_LicenseAPI_RootKeyY != "")
    }

    ; Returns a verdict, or "" if no server decided; heard then says what was heard.
    AskServers(state, heard) {
        nonce := LicenseAPI_Crypto.RandomHex(16)
        query := this.Query(nonce)
        order := this.Order(state)
        for position, rank in order {
            server := g_LicenseAPI_Servers[rank]
            try {
                answer := this.Ask(server, query)
                verdict := this.Believe(answer, nonce, state, heard)
                this.Remember(state, rank)
                this.Log("used", this.Name(rank), verdict.allow ? "permitido" : "negado"
                    , verdict.message, this.WhyThisServer(position, rank))
                return verdict
            } catch problem {
                coming := order.HasKey(position + 1) ? this.Name(order[position + 1]) : "modo offline"
                heard.reasons .= (position > 1 ? "; " : "") "servidor " rank ": " problem.Message
                this.Log("failover", this.Name(rank), problem.Message, "próximo: " coming)
            }
        }
        return ""
    }

    Query(nonce) {
        FormatTime, ts, , yyyyMMddHHmmss
        signed := g_LicenseAPI_DeviceId "|" g_LicenseAPI_Version "|" ts "|" g_LicenseAPI_SharedSecret
        pairs := [["id", g_LicenseAPI_DeviceId], ["version", g_LicenseAPI_Version], ["ts", ts]
            , ["sig", LicenseAPI_Crypto.Sha256Hex(signed)], ["nonce", nonce]
            , ["hostname", A_ComputerName], ["username", A_UserName], ["osbuild", A_OSVersion]]
        query := ""
        for _, pair in pairs
            query .= (query = "" ? "" : "&") pair[1] "=" this.Escape(pair[2])
        return query
    }

    Escape(text) {
        size := StrPut(text, "UTF-8") - 1
        VarSetCapacity(bytes, size + 1)
        StrPut(text, &bytes, "UTF-8")
        escaped := ""
        Loop, %size% {
            code := NumGet(bytes, A_Index - 1, "UChar")
            char := Chr(code)
            escaped .= (code < 128 && RegExMatch(char, "[A-Za-z0-9._~-]")) ? char : Format("%{:02X}", code)
        }
        return escaped
    }

    ; By priority; a backup that answered lately goes first, so that not every start waits for a
    ; server that is down.
    Order(state) {
        order := []
        age := this.Now() - state.Number("server_since")
        for rank, server in g_LicenseAPI_Servers
            if (this.Same(server, state.Get("server")) && age >= 0 && age < this.RememberSeconds)
                order.InsertAt(1, rank)
            else
                order.Push(rank)
        return order
    }

    ; The time is that of the failover and not renewed, so that the first server gets its turn again.
    Remember(state, rank) {
        if (rank = 1) {
            state.Set("server", "")
        } else if (!this.Same(state.Get("server"), g_LicenseAPI_Servers[rank])
            || this.Now() - state.Number("server_since") >= this.RememberSeconds) {
            state.Set("server", g_LicenseAPI_Servers[rank])
            state.Set("server_since", this.Now())
        }
    }

    ; Returns the answer of a server as a parsed object; throws the reason if there is none.
    Ask(server, query) {
        try {
            http := ComObjCreate("WinHttp.WinHttpRequest.5.1")
            http.Open("GET", server "/verify?" query, true)
            ms := g_LicenseAPI_TimeoutSeconds * 1000
            http.SetTimeouts(ms, ms, ms, ms)
            http.SetRequestHeader("X-API-Key", g_LicenseAPI_Key)
            http.Send()
            if (!this.IsAnswered(http, A_TickCount + ms)) {
                http.Abort()
                timedOut := true
            } else {
                timedOut := false
                status := http.Status
                text := http.ResponseText
            }
        } catch problem {
            throw Exception("sem conexão (" this.ErrorCode(problem) ")")
        }
        if (timedOut)
            throw Exception("sem resposta em " g_LicenseAPI_TimeoutSeconds " s")
        if (status >= 500)
            throw Exception("erro HTTP " status)
        try
            answer := LicenseAPI_Json.Parse(SubStr(text, 1, this.AnswerCharsMax))
        catch
            answer := ""
        if (!LicenseAPI_Json.IsBoolean(LicenseAPI_Json.Get(answer, "allow")))
            throw Exception("a resposta não é da API de licenças (HTTP " status ")")
        return answer
    }

    ; Only this bounds the whole exchange; the four timeouts bound its steps. Where the answer is
    ; there before the wait begins, Wine's WaitForResponse returns at once and sets no result,
    ; which reads as false; a wait for an answer that does not come lasts its whole second.
    IsAnswered(http, deadline) {
        while ((begun := A_TickCount) < deadline)
            if (http.WaitForResponse(1) || A_TickCount - begun < 500)
                return true
        return false
    }

    ; Returns only the number: the text may quote what was sent.
    ErrorCode(problem) {
        return RegExMatch(problem.Message, "0x[0-9A-Fa-f]{8}", code) ? code : "erro"
    }

    ; Returns the verdict of an answer; throws the reason if it must not be believed.
    Believe(answer, nonce, state, heard) {
        allow := LicenseAPI_Json.IsTrue(LicenseAPI_Json.Get(answer, "allow"))
        message := LicenseAPI_Json.Text(answer, "msg")
        config := LicenseAPI_Json.Get(answer, "config")
        if (!this.IsPinned())
            return this.Verdict(allow, allow ? "online" : "denied", message
                , LicenseAPI_Json.List(config, "features"), config)
        heard.answers += 1, heard.denials += !allow
        heard.message := message
        this.LearnRevoked(LicenseAPI_Json.Text(answer, "offline_revoked"), state)
        token := LicenseAPI_Json.Text(answer, "offline_token")
        if (token = "")
            throw Exception((allow ? "permissão" : "negação") " sem assinatura (" message ")")
        claims := this.OpenToken(token, state)
        if (!this.Same(LicenseAPI_Json.Text(claims, "nonce"), nonce))
            throw Exception("token de outra pergunta")
        if (LicenseAPI_Json.IsTrue(LicenseAPI_Json.Get(claims, "allow")) != allow)
            throw Exception("resposta e token se contradizem")
        issued := LicenseAPI_Json.Integer(claims, "iat")
        ; From here on this PC's clock is read as the signing host's, however wrong it is set.
        state.Set("clock_offset", issued - this.Now())
        state.Set("newest_seen", issued)
        state.Set("token", token)
        return this.Verdict(allow, allow ? "online" : "denied", message
            , LicenseAPI_Json.List(claims, "features"), config)
    }

    Verdict(allow, status, message, features, config) {
        return {allow: allow, status: status, message: message, features: features
            , config: IsObject(config) ? config : {}}
    }

    ; No server decided. The saved token does, or nobody.
    GoOffline(state, heard) {
        if (!this.IsPinned())
            return this.Verdict(false, "unavailable", this.Unavailable(), [], "")
        try {
            claims := this.SavedClaims(state)
            this.Log("offline", "modo offline ativado"
                , "token emitido em " this.Moment(LicenseAPI_Json.Integer(claims, "iat"))
                , "vale até " this.Moment(this.LastMoment(claims)), heard.reasons)
            return this.Verdict(true, "offline", "Licença ativa (modo offline)."
                , LicenseAPI_Json.List(claims, "features"), "")
        } catch problem {
            this.Log("failover", "modo offline recusado", problem.Message)
        }
        if (heard.answers && heard.denials = heard.answers)
            return this.Verdict(false, "denied", heard.message, [], "")
        return this.Verdict(false, "unavailable", this.Unavailable(), [], "")
    }

    Unavailable() {
        return "Não foi possível verificar a licença: nenhum servidor pôde decidir. "
            . "Verifique a conexão com a internet e tente de novo."
    }

    ; Returns the claims of the saved token if it allows this device now; throws the reason if not.
    SavedClaims(state) {
        if (state.Get("token") = "")
            throw Exception("nenhum token salvo")
        now := this.Now() + state.Number("clock_offset")
        newest := state.Number("newest_seen")
        if (now > newest)
            state.Set("newest_seen", now)
        claims := this.OpenToken(state.Get("token"), state)
        if (!LicenseAPI_Json.IsTrue(LicenseAPI_Json.Get(claims, "allow")))
            throw Exception("a última resposta assinada foi negativa")
        issued := LicenseAPI_Json.Integer(claims, "iat")
        if (now + this.ClockSlackSeconds < (newest > issued ? newest : issued))
            throw Exception("o relógio do computador foi atrasado")
        last := this.LastMoment(claims)
        if (now > last)
            throw Exception("o prazo acabou em " this.Moment(last))
        return claims
    }

    ; The licence's last day is whole, in UTC as the hosts count it.
    LastMoment(claims) {
        last := LicenseAPI_Json.Integer(claims, "iat") + LicenseAPI_Json.Integer(claims, "grace")
        last := Min(last, LicenseAPI_Json.Integer(claims, "exp"))
        day := StrReplace(LicenseAPI_Json.Text(claims, "license_expires_at"), "-")
        if (day = "")
            return last
        if !RegExMatch(day, "^\d{8}$")
            throw Exception("token sem data de vencimento legível")
        end := day . "235959"
        end -= 19700101000000, Seconds
        return Min(last, end)
    }

    ; Keeps the newest list of revoked keys; one that the root did not sign is no list.
    LearnRevoked(list, state) {
        found := this.Revoked(list)
        known := this.Revoked(state.Get("revoked"))
        if (found && (!known || LicenseAPI_Json.Integer(found, "iat") > LicenseAPI_Json.Integer(known, "iat")))
            state.Set("revoked", list)
    }

    IsRevoked(kid, state) {
        for _, revoked in LicenseAPI_Json.List(this.Revoked(state.Get("revoked")), "kids")
            if (this.Same(revoked, kid))
                return true
        return false
    }

    ; Returns the claims of a list of revoked keys, or "" if it is none.
    Revoked(list) {
        try {
            claims := this.OpenByRoot(list, "revoked-keys")
            LicenseAPI_Json.Integer(claims, "iat")
            return claims
        } catch
            return ""
    }

    ; Returns the claims of a host's token about this device; throws the reason if it does not hold.
    OpenToken(token, state) {
        header := LicenseAPI_Jws.Header(token)
        cert := this.OpenByRoot(LicenseAPI_Json.Text(header, "cert"), "host-key")
        kid := LicenseAPI_Json.Text(cert, "kid")
        if (kid = "" || !this.Same(LicenseAPI_Json.Text(header, "kid"), kid))
            throw Exception("a chave do token não é a do certificado")
        if (this.IsRevoked(kid, state))
            throw Exception("a chave do servidor foi revogada")
        jwk := LicenseAPI_Json.Get(cert, "jwk")
        claims := LicenseAPI_Jws.Open(token, "JWT"
            , LicenseAPI_Json.Text(jwk, "x"), LicenseAPI_Json.Text(jwk, "y"))
        if (!this.Same(LicenseAPI_Json.Text(claims, "iss"), LicenseAPI_Json.Text(cert, "iss")))
            throw Exception("o servidor do token não é o do certificado")
        if (!this.Same(LicenseAPI_Json.Text(claims, "sub"), g_LicenseAPI_DeviceId))
            throw Exception("token de outra máquina")
        return claims
    }

    OpenByRoot(jws, typ) {
        return LicenseAPI_Jws.Open(jws, typ, g_LicenseAPI_RootKeyX, g_LicenseAPI_RootKeyY)
    }

    ; AutoHotkey compares texts that look like numbers as numbers, and ids may look like that.
    Same(one, other) {
        return !IsObject(one) && !IsObject(other) && ("=" one) == ("=" other)
    }

    Now() {
        seconds := A_NowUTC
        seconds -= 19700101000000, Seconds
        return seconds
    }

    Moment(seconds) {
        stamp := 19700101000000
        stamp += seconds, Seconds
        FormatTime, text, %stamp%, yyyy-MM-dd HH:mm
        return text " UTC"
    }

    Name(rank) {
        return "servidor " rank " (" g_LicenseAPI_Servers[rank] ")"
    }

    WhyThisServer(position, rank) {
        if (position > 1)
            return "os anteriores falharam"
        return rank = 1 ? "é o principal" : "foi o último que respondeu"
    }

    ; Appends a line to one of the three files in %TEMP%. A log that cannot be written stops nobody.
    Log(which, parts*) {
        static files := {used: "license_server_used.txt", failover: "license_server_failover.txt"
            , offline: "license_offline_success.txt"}
        file := A_Temp "\" files[which]
        size := 0
        FormatTime, line, , yyyy-MM-dd HH:mm:ss
        for _, part in parts
            line .= " | " SubStr(RegExReplace(part, "[\x00-\x1f|]+", " "), 1, 400)
        try {
            if FileExist(file)
                FileGetSize, size, %file%
            if (size > this.LogBytesMax)
                FileDelete, %file%
            FileAppend, %line%`r`n, *%file%, UTF-8
        }
    }
}

; What the client remembers from one start to the next: lines "name=value", written as a whole.
class LicenseAPI_State {
    __New(file) {
        this.file := file
        this.values := {}
        text := ""
        try
            FileRead, text, *P65001 %file%
        Loop, Parse, text, `n, `r
        {
            at := InStr(A_LoopField, "=")
            if (at)
                this.Set(SubStr(A_LoopField, 1, at - 1), SubStr(A_LoopField, at + 1))
        }
    }

    Get(name) {
        return ObjRawGet(this.values, "_" name)
    }

    Number(name) {
        value := this.Get(name)
        return RegExMatch(value, "^-?\d{1,15}$") ? value + 0 : 0
    }

    Set(name, value) {
        ObjRawSet(this.values, "_" name, value)
    }

    Save() {
        text := ""
        for name, value in this.values
            text .= SubStr(name, 2) "=" value "`n"
        file := this.file
        new := file "." DllCall("GetCurrentProcessId") ".new"
        SplitPath, file, , folder
        try {
            FileCreateDir, %folder%
            if FileExist(new)
                FileDelete, %new%
            FileAppend, %text%, *%new%, UTF-8-RAW
            FileMove, %new%, %file%, 1
        } catch
            return false
        return true
    }
}

; A JWS in compact form (RFC 7515), ES256 and nothing else.
class LicenseAPI_Jws {
    Header(jws) {
        return this.Decoded(StrSplit(jws, ".")[1])
    }

    ; Returns the claims; throws the reason if the signature does not hold.
    Open(jws, typ, x, y) {
        parts := StrSplit(jws, ".")
        if (parts.Length() != 3)
            throw Exception("token ilegível")
        header := this.Decoded(parts[1])
        if (!LicenseAPI.Same(LicenseAPI_Json.Text(header, "alg"), "ES256")
            || !LicenseAPI.Same(LicenseAPI_Json.Text(header, "typ"), typ))
            throw Exception("token de outro tipo")
        if (!LicenseAPI_Crypto.IsSignedEs256(parts[1] "." parts[2], parts[3], x, y))
            throw Exception("assinatura inválida")
        return this.Decoded(parts[2])
    }

    Decoded(part) {
        size := LicenseAPI_Crypto.FromBase64Url(part, bytes)
        if (!size)
            throw Exception("token ilegível")
        try
            return LicenseAPI_Json.Parse(StrGet(&bytes, size, "UTF-8"))
        catch
            throw Exception("token ilegível")
    }
}

; SHA-256, ES256 and randomness by Windows' bcrypt, from Windows 7 on.
class LicenseAPI_Crypto {
    static BCRYPT_USE_SYSTEM_PREFERRED_RNG := 2
    static CRYPT_STRING_BASE64 := 1

    Sha256Hex(text) {
        this.Sha256(text, digest)
        return this.Hex(digest, 32)
    }

    ; Puts the SHA-256 of the text's UTF-8 bytes into digest.
    Sha256(text, ByRef digest) {
        size := StrPut(text, "UTF-8") - 1
        VarSetCapacity(bytes, size + 1)
        StrPut(text, &bytes, "UTF-8")
        VarSetCapacity(digest, 32, 0)
        algorithm := this.Algorithm("SHA256"), hash := 0
        DllCall("bcrypt\BCryptCreateHash", "Ptr", algorithm, "Ptr*", hash, "Ptr", 0, "UInt", 0, "Ptr", 0, "UInt", 0, "UInt", 0)
        DllCall("bcrypt\BCryptHashData", "Ptr", hash, "Ptr", &bytes, "UInt", size, "UInt", 0)
        failed := DllCall("bcrypt\BCryptFinishHash", "Ptr", hash, "Ptr", &digest, "UInt", 32, "UInt", 0)
        DllCall("bcrypt\BCryptDestroyHash", "Ptr", hash)
        DllCall("bcrypt\BCryptCloseAlgorithmProvider", "Ptr", algorithm, "UInt", 0)
        if (failed)
            throw Exception("SHA-256 não disponível neste Windows")
    }

    ; Says whether a signature (base64url of r and s) over a text holds under the P-256 key (x, y).
    IsSignedEs256(text, signature, x, y) {
        if (this.FromBase64Url(signature, sig) != 64
            || this.FromBase64Url(x, xBytes) != 32 || this.FromBase64Url(y, yBytes) != 32)
            return false
        VarSetCapacity(blob, 72, 0)
        NumPut(0x31534345, blob, 0, "UInt")     ; "ECS1": a public ECDSA key on P-256
        NumPut(32, blob, 4, "UInt")
        DllCall("RtlMoveMemory", "Ptr", &blob + 8, "Ptr", &xBytes, "Ptr", 32)
        DllCall("RtlMoveMemory", "Ptr", &blob + 40, "Ptr", &yBytes, "Ptr", 32)
        this.Sha256(text, digest)
        algorithm := this.Algorithm("ECDSA_P256"), key := 0
        refused := DllCall("bcrypt\BCryptImportKeyPair", "Ptr", algorithm, "Ptr", 0, "WStr", "ECCPUBLICBLOB", "Ptr*", key, "Ptr", &blob, "UInt", 72, "UInt", 0)
        if (!refused) {
            refused := DllCall("bcrypt\BCryptVerifySignature", "Ptr", key, "Ptr", 0, "Ptr", &digest, "UInt", 32, "Ptr", &sig, "UInt", 64, "UInt", 0)
            DllCall("bcrypt\BCryptDestroyKey", "Ptr", key)
        }
        DllCall("bcrypt\BCryptCloseAlgorithmProvider", "Ptr", algorithm, "UInt", 0)
        return refused = 0
    }

    RandomHex(size) {
        VarSetCapacity(bytes, size, 0)
        if DllCall("bcrypt\BCryptGenRandom", "Ptr", 0, "Ptr", &bytes, "UInt", size, "UInt", this.BCRYPT_USE_SYSTEM_PREFERRED_RNG)
            throw Exception("números aleatórios não disponíveis neste Windows")
        return this.Hex(bytes, size)
    }

    ; Puts the bytes of a base64url text into bytes; returns how many, 0 if the text is not base64url.
    FromBase64Url(text, ByRef bytes) {
        if (IsObject(text) || !RegExMatch(text, "^[A-Za-z0-9_-]+$"))
            return 0
        text := StrReplace(StrReplace(text, "-", "+"), "_", "/")
        text .= SubStr("===", 1, Mod(4 - Mod(StrLen(text), 4), 4))
        size := StrLen(text)
        VarSetCapacity(bytes, size, 0)
        if !DllCall("crypt32\CryptStringToBinaryW", "WStr", text, "UInt", 0, "UInt", this.CRYPT_STRING_BASE64, "Ptr", &bytes, "UInt*", size, "Ptr", 0, "Ptr", 0)
            return 0
        return size
    }

    Algorithm(name) {
        algorithm := 0
        if DllCall("bcrypt\BCryptOpenAlgorithmProvider", "Ptr*", algorithm, "WStr", name, "Ptr", 0, "UInt", 0)
            throw Exception(name " não disponível neste Windows")
        return algorithm
    }

    Hex(ByRef bytes, size) {
        text := ""
        Loop, %size%
            text .= Format("{:02x}", NumGet(bytes, A_Index - 1, "UChar"))
        return text
    }
}

; JSON (RFC 8259), read only. Objects are kept raw: a name such as "base" means nothing special.
; true, false and null are objects {literal: ...}, so that no text or number passes for one.
class LicenseAPI_Json {
    static DepthMax := 16

    Parse(text) {
        at := 1
        value := this.Value(text, at, this.DepthMax)
        if (this.Skip(text, at) <= StrLen(text))
            throw Exception("JSON: texto depois do fim")
        return value
    }

    Get(object, name) {
        return IsObject(object) && object.kind == "object" ? ObjRawGet(object.members, "_" name) : ""
    }

    ; Returns a member if it is a text, else "".
    Text(object, name) {
        value := this.Get(object, name)
        return IsObject(value) ? "" : value
    }

    Integer(object, name) {
        value := this.Get(object, name)
        if (IsObject(value) || !RegExMatch(value, "^\d{1,15}$"))
            throw Exception("token sem " name)
        return value + 0
    }

    List(object, name) {
        value := this.Get(object, name)
        return IsObject(value) && value.kind == "array" ? value.items : []
    }

    IsBoolean(value) {
        return IsObject(value) && (value.literal == "true" || value.literal == "false")
    }

    IsTrue(value) {
        return IsObject(value) && value.literal == "true"
    }

    Value(text, ByRef at, depth) {
        if (!depth)
            throw Exception("JSON: profundo demais")
        at := this.Skip(text, at)
        char := SubStr(text, at, 1)
        if (char = "{")
            return this.Object(text, at, depth)
        if (char = "[")
            return this.Array(text, at, depth)
        if (char = """")
            return this.String(text, at)
        if RegExMatch(text, "A)-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", found, at) {
            at += StrLen(found)
            return found
        }
        if RegExMatch(text, "A)true|false|null", found, at) {
            at += StrLen(found)
            return {literal: found}
        }
        throw Exception("JSON: valor ilegível")
    }

    Object(text, ByRef at, depth) {
        object := {kind: "object", members: {}}
        at := this.Skip(text, at + 1)
        if (SubStr(text, at, 1) = "}") {
            at += 1
            return object
        }
        Loop {
            at := this.Skip(text, at)
            name := this.String(text, at)
            at := this.Skip(text, at)
            this.Expect(text, at, ":")
            ObjRawSet(object.members, "_" name, this.Value(text, at, depth - 1))
            if (this.Closes(text, at, "}"))
                return object
        }
    }

    Array(text, ByRef at, depth) {
        array := {kind: "array", items: []}
        at := this.Skip(text, at + 1)
        if (SubStr(text, at, 1) = "]") {
            at += 1
            return array
        }
        Loop {
            array.items.Push(this.Value(text, at, depth - 1))
            if (this.Closes(text, at, "]"))
                return array
        }
    }

    String(text, ByRef at) {
        if !RegExMatch(text, "A)""((?:[^""\\\x00-\x1f]++|\\[""\\/bfnrt]|\\u[0-9A-Fa-f]{4})*+)""", found, at)
            throw Exception("JSON: texto ilegível")
        at += StrLen(found)
        return this.Unescaped(found1)
    }

    Unescaped(raw) {
        static plain := {b: Chr(8), f: Chr(12), n: "`n", r: "`r", t: "`t"}
        result := "", from := 1
        while (at := InStr(raw, "\", true, from)) {
            result .= SubStr(raw, from, at - from)
            mark := SubStr(raw, at + 1, 1)
            if (mark == "u")
                result .= Chr("0x" SubStr(raw, at + 2, 4)), from := at + 6
            else
                result .= plain.HasKey(mark) ? plain[mark] : mark, from := at + 2
        }
        return result . SubStr(raw, from)
    }

    Expect(text, ByRef at, char) {
        if (SubStr(text, at, 1) != char)
            throw Exception("JSON: falta " char)
        at += 1
    }

    ; Steps over the end of a list, or over the comma before its next item.
    Closes(text, ByRef at, end) {
        at := this.Skip(text, at)
        if (SubStr(text, at, 1) = end) {
            at += 1
            return true
        }
        this.Expect(text, at, ",")
        return false
    }

    Skip(text, at) {
        found := RegExMatch(text, "[^ \t\r\n]", , at)
        return found ? found : StrLen(text) + 1
    }
}
